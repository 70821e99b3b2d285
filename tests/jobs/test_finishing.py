"""From the end of a job's processes to its final state: the digests in between."""

import asyncio
import hashlib
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from teleworkerd.config import Config
from teleworkerd.counters import Counters
from teleworkerd.execution import ExitRecord, Postscript
from teleworkerd.jobdir import JobDirectory
from teleworkerd.jobs.finishing import known_digests
from teleworkerd.jobs.job import Job
from teleworkerd.jobs.manager import JobManager
from teleworkerd.output.digest import EMPTY, StreamDigest
from teleworkerd.protocol.types import JobState, Stream
from teleworkerd.store import JobStore
from tests.fakes import (
    DEADLINE,
    EXITED,
    LAUNCHED,
    TRUE,
    UNSEALED,
    FakeExecutor,
    record_of,
)
from tests.output.readers import runs_of


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Hold back all hashing until this is set."""
    gate = threading.Event()
    work = StreamDigest._hash

    def wait(digest: StreamDigest, runs: list[tuple[int, int]]) -> None:
        assert gate.wait(DEADLINE)
        work(digest, runs)

    monkeypatch.setattr(StreamDigest, "_hash", wait)
    return gate


async def started(manager: JobManager, *, request: str = "1") -> Job:
    """Return a job that runs."""
    job, _ = await manager.run(TRUE, owner="alice", request_id=request)
    return job


async def ended(job: Job) -> None:
    """Wait until the job is over."""
    await asyncio.wait_for(job.wait(), DEADLINE)


async def test_final_with_its_digests(
    manager: JobManager, executor: FakeExecutor, gate: threading.Event
) -> None:
    """A job is over when its digests are known, and not a moment before."""
    job = await started(manager)
    executor.write(job.id, b"out")
    executor.write(job.id, b"err", Stream.STDERR)
    waiting = asyncio.create_task(job.wait())

    with job.subscribe({Stream.STDOUT: 3}) as reading:
        reader = asyncio.create_task(reading.ready())
        executor.exit(job.id, sealed=False)
        await asyncio.sleep(0.01)

        assert (job.has_exited, job.is_over) == (True, False)
        assert (job.status.state, job.status.exit_code) == (JobState.RUNNING, None)
        assert not waiting.done()
        assert not reader.done()
        assert job.id not in executor.sealed
        gate.set()
        status = await asyncio.wait_for(waiting, DEADLINE)
        assert not await asyncio.wait_for(reader, DEADLINE)

    digests = [hashlib.sha256(data).digest() for data in (b"out", b"err")]
    assert [status.stdout.sha256, status.stderr.sha256] == digests
    assert (status.state, status.exit_code) == (JobState.FINISHED, 3)
    assert executor.sealed == {job.id: Postscript(digests[0].hex(), digests[1].hex())}


async def test_between_exit_and_end(
    manager: JobManager, executor: FakeExecutor, gate: threading.Event
) -> None:
    """What comes while the digests are computed changes nothing about the end."""
    job = await started(manager)
    executor.write(job.id, b"out")
    executor.exit(job.id, sealed=False)
    job.exited(replace(EXITED, exit_code=9))
    job.vanished("too late")
    job.stop_requested()
    states = [job.status.state]
    gate.set()
    await ended(job)

    assert [*states, job.status.state] == [JobState.RUNNING, JobState.FINISHED]
    assert job.status.exit_code == 3


async def test_stopped_job(
    manager: JobManager, executor: FakeExecutor, gate: threading.Event
) -> None:
    """A job that was to stop is stopping until its digests are known."""
    job = await started(manager)
    executor.write(job.id, b"out")
    manager.stop(job, grace=1.0)
    executor.exit(job.id, sealed=False)
    states = [job.status.state]
    gate.set()
    await ended(job)

    assert [*states, job.status.state] == [JobState.STOPPING, JobState.STOPPED]


async def test_digests_that_are_known(
    manager: JobManager, executor: FakeExecutor, gate: threading.Event
) -> None:
    """An exit record with digests needs no second look at the bytes."""
    job = await started(manager)
    executor.write(job.id, b"out")
    executor.exit(job.id)

    assert job.is_over
    assert job.status.stdout.sha256 == hashlib.sha256(b"out").digest()
    assert job.status.stderr.sha256 == EMPTY
    assert executor.sealed == {}


@pytest.mark.parametrize(
    ("stdout", "stderr"), [(None, "00"), ("00", None), ("no hex", "00"), (None, None)]
)
def test_digests_that_are_not_known(stdout: str | None, stderr: str | None) -> None:
    """One that is missing, or that somebody has spoilt, is computed."""
    record = replace(EXITED, stdout_sha256=stdout, stderr_sha256=stderr)

    assert known_digests(record) is None


def unlink(directory: JobDirectory) -> None:
    """Let the spool be gone."""
    directory.spool(Stream.STDOUT).unlink()


def cut(directory: JobDirectory) -> None:
    """Let the spool be shorter than it was."""
    directory.spool(Stream.STDOUT).write_bytes(b"o")


@pytest.mark.parametrize("spoil", [unlink, cut])
async def test_unreadable_spool(
    manager: JobManager,
    executor: FakeExecutor,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[JobDirectory], None],
) -> None:
    """What cannot be hashed is told as unknown; the job is over all the same."""
    job = await started(manager)
    executor.write(job.id, b"out")
    executor.write(job.id, b"err", Stream.STDERR)
    spoil(executor.output(job.id).directory)
    executor.exit(job.id, sealed=False)
    await ended(job)

    assert job.status.stdout.sha256 is None
    assert job.status.stderr.sha256 == hashlib.sha256(b"err").digest()
    assert executor.sealed[job.id].stdout_sha256 is None
    assert f"job {job.id}: stdout cannot be hashed" in caplog.text


async def test_dropped_output(manager: JobManager, executor: FakeExecutor) -> None:
    """The digest is that of what was kept, and the sizes say what was not."""
    job = await started(manager)
    executor.write(job.id, b"ab")
    executor.drop(job.id, 1 << 40)
    executor.write(job.id, b"cd")
    executor.drop(job.id, 7, Stream.STDERR)
    executor.output(job.id).order.clear()  # too much to hash by any means but the gaps
    executor.exit(job.id, sealed=False)
    await ended(job)
    stdout, stderr = job.status.stdout, job.status.stderr

    assert (stdout.end, stdout.dropped) == ((1 << 40) + 4, 1 << 40)
    assert stdout.sha256 == hashlib.sha256(b"abcd").digest()
    assert (stderr.end, stderr.dropped, stderr.sha256) == (7, 7, EMPTY)
    assert job.kept_bytes == 4


async def test_found_ended(
    config: Config, executor: FakeExecutor, store: JobStore
) -> None:
    """A later server computes what the earlier one did not come to, from the start."""
    record = record_of("12345678-job", started_at=5)
    await store.save(record)
    JobDirectory(config.jobs_dir / record.status.id).create()
    output = executor.output(record.status.id)
    output.write(bytes(range(200)) * 100)
    output.drop(50)
    output.write(b"end")
    output.record()
    executor.exits[record.status.id] = executor.exit_record(
        record.status.id, UNSEALED, sealed=False
    )
    manager = JobManager(
        executor=executor, store=store, config=config, counters=Counters()
    )
    await manager.load()
    job = manager.get(record.status.id, owner="alice")
    await ended(job)

    assert job.status.stdout.sha256 == output.sha256(Stream.STDOUT)
    assert job.status.stdout.dropped == 50
    assert executor.sealed[job.id].stdout_sha256 == output.sha256(Stream.STDOUT).hex()

    with job.subscribe({Stream.STDOUT: 0}) as reading:
        assert await runs_of(reading) == output.runs(Stream.STDOUT)

    manager.close()


async def test_end_of_the_server_in_between(
    config: Config,
    executor: FakeExecutor,
    store: JobStore,
    gate: threading.Event,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A server that ends while it computes leaves the job to the next, in silence."""
    manager = JobManager(
        executor=executor, store=store, config=config, counters=Counters()
    )
    job = await started(manager)
    executor.write(job.id, bytes(9 << 20))
    executor.exit(job.id, sealed=False)
    await asyncio.sleep(0.01)
    gate.set()
    manager.close()
    await asyncio.sleep(0.01)
    await store.save(job.record)

    assert not job.is_over
    assert executor.sealed == {}
    executor.exits[job.id] = executor.exit_record(job.id, UNSEALED, sealed=False)
    later = JobManager(
        executor=executor, store=store, config=config, counters=Counters()
    )
    await later.load()
    await ended(later.get(job.id, owner="alice"))
    later.close()
    assert caplog.text == ""


@pytest.mark.parametrize("state", [JobState.STARTING, JobState.STOPPING])
async def test_all_of_a_lost_job(
    config: Config, executor: FakeExecutor, store: JobStore, state: JobState
) -> None:
    """Of a job that nobody tells of any more, every byte is found, and stays so."""
    record = record_of("12345678-job", state=state, started_at=5)
    await store.save(record)
    output = executor.output(record.status.id)
    output.write(b"recorded")
    output.record()
    output.write(b" and not")

    for _ in range(2):
        manager = JobManager(
            executor=executor, store=store, config=config, counters=Counters()
        )
        await manager.load()
        job = manager.get(record.status.id, owner="alice")

        assert job.status.state is JobState.LOST
        assert (job.status.stdout.end, job.status.stdout.sha256) == (16, None)

        with job.subscribe({Stream.STDOUT: 0}) as reading:
            assert await runs_of(reading) == output.runs(Stream.STDOUT)

        manager.close()


async def test_keeper_gone_with_a_live_reader(
    manager: JobManager, executor: FakeExecutor
) -> None:
    """What the keeper had no time to tell of is read before the end."""
    job = await started(manager)

    with job.subscribe(dict.fromkeys(Stream, 0)) as reading:
        executor.write(job.id, b"told")
        executor.output(job.id).write(b" not told")
        await asyncio.wait_for(manager.settle(), DEADLINE)

        assert await runs_of(reading) == [(Stream.STDOUT, b"told not told")]

    assert job.status.state is JobState.LOST


async def test_held_up(manager: JobManager, executor: FakeExecutor) -> None:
    """Why output is not taken is told while it is so, and not of a job that is over."""
    job = await started(manager)
    executor.sinks[job.id].output_held_up("the disk is full")
    found = [job.status.held_up]
    executor.sinks[job.id].output_held_up(None)
    found.append(job.status.held_up)
    executor.sinks[job.id].output_held_up("the limit is reached")
    executor.exit(job.id)

    assert [*found, job.status.held_up] == ["the disk is full", None, None]


def test_record_of_an_earlier_version() -> None:
    """An exit record without digests is one whose digests are not known."""
    assert known_digests(ExitRecord(LAUNCHED, 1, EXITED.reason)) is None
