"""Removing jobs: all of one, once, whoever reads it or asks for it meanwhile."""

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest

from teleworkerd.config import Config
from teleworkerd.counters import Counters
from teleworkerd.execution import LaunchError
from teleworkerd.jobs.job import Job
from teleworkerd.jobs.manager import JobManager
from teleworkerd.protocol.errors import (
    JobNotEnded,
    JobNotFound,
    JobRemoved,
    LaunchFailed,
    Unavailable,
)
from teleworkerd.protocol.status import LaunchFailure
from teleworkerd.protocol.types import JobState, LaunchStage, Stream
from teleworkerd.store import JobStore
from tests.fakes import DEADLINE, LAUNCHED, TRUE, FakeExecutor, record_of
from tests.output.readers import caught_up, read_now, runs_of
from tests.store.faults import accept, refuse


BOTH = dict.fromkeys(Stream, 0)


async def started(manager: JobManager, *, request: str = "1") -> Job:
    """Return a job of alice's that runs."""
    job, _ = await manager.run(TRUE, owner="alice", request_id=request)
    return job


async def ended(
    manager: JobManager, executor: FakeExecutor, *, request: str = "1"
) -> Job:
    """Return one that has ended, with some output."""
    job = await started(manager, request=request)
    executor.write(job.id, b"out")
    executor.exit(job.id)
    return job


def ids(manager: JobManager) -> list[str]:
    """Return alice's jobs, newest first."""
    return [status.id for status in manager.list(owner="alice")]


async def test_removed(
    manager: JobManager, executor: FakeExecutor, config: Config, store: JobStore
) -> None:
    """Of a removed job nothing is left: no files, no record, no way to find it."""
    job = await ended(manager, executor)
    other = await ended(manager, executor, request="2")
    await manager.remove(job)

    assert executor.removed == [job.id]
    assert ids(manager) == [other.id]
    assert [record.status.id for record in await store.load()] == [other.id]
    assert not (config.jobs_dir / job.id).exists()
    assert manager.counts()["finished"] == 1

    with pytest.raises(JobNotFound):
        manager.get(job.id, owner="alice")


@pytest.mark.parametrize(
    ("stop", "said"),
    [(False, "it is running; 'twctl stop"), (True, "it is about to; 'twctl wait")],
)
async def test_job_that_runs(
    manager: JobManager, executor: FakeExecutor, *, stop: bool, said: str
) -> None:
    """A job that has not ended is not removed; the message says how to end it."""
    job = await started(manager)

    if stop:
        manager.stop(job, grace=None)

    with pytest.raises(JobNotEnded, match=f"{said} {job.id}'") as caught:
        await manager.remove(job)

    assert caught.value.details == {"job": job.id}
    assert executor.removed == []
    assert ids(manager) == [job.id]


async def test_job_that_is_not_hashed_yet(
    manager: JobManager, executor: FakeExecutor
) -> None:
    """A job whose processes have ended, but whose digests are not known, stays."""
    job = await started(manager)
    executor.write(job.id, b"out")
    executor.exit(job.id, sealed=False)

    with pytest.raises(JobNotEnded):
        await manager.remove(job)

    await asyncio.wait_for(job.wait(), DEADLINE)
    await manager.remove(job)
    assert ids(manager) == []


async def test_job_that_never_ran(
    manager: JobManager, executor: FakeExecutor, store: JobStore
) -> None:
    """A job that failed to start can be removed, too, and its request begins anew."""
    executor.error = LaunchError(LaunchFailure(LaunchStage.EXEC, 2, "no"))

    with pytest.raises(LaunchFailed):
        await started(manager)

    await manager.remove(manager.get(ids(manager)[0], owner="alice"))
    executor.error = None
    job = await started(manager)

    assert [record.status.id for record in await store.load()] == [job.id]


async def test_readers_are_told(manager: JobManager, executor: FakeExecutor) -> None:
    """All kinds of readers learn of it: those that wait, rest, and hold a chunk."""
    job = await ended(manager, executor)

    with (
        job.subscribe({Stream.STDOUT: 0}) as behind,
        job.subscribe(BOTH) as both,
        job.subscribe({Stream.STDOUT: 0}, follow=False, until=1 << 62) as ready,
    ):
        assert await asyncio.wait_for(ready.ready(), DEADLINE)
        assert await read_now(both, 1, limit=1) == b"o"
        await manager.remove(job)

        for reading in (behind, both, ready):
            with pytest.raises(JobRemoved) as caught:
                await asyncio.wait_for(reading.ready(), DEADLINE)

            assert caught.value.details == {"job": job.id}

        with pytest.raises(JobRemoved):
            ready.take(1)


async def test_reader_while_it_is_removed(
    manager: JobManager, executor: FakeExecutor, config: Config
) -> None:
    """A reader who finds the files gone before all is done hears why."""
    job = await ended(manager, executor)
    executor.bin.clear()

    with job.subscribe({Stream.STDOUT: 0}) as reading:
        removal = asyncio.create_task(manager.remove(job))
        await asyncio.wait_for(executor.asked.wait(), DEADLINE)
        shutil.rmtree(config.jobs_dir / job.id)

        with pytest.raises(JobRemoved):
            await read_now(reading, 1)

        executor.bin.set()
        await asyncio.wait_for(removal, DEADLINE)


async def test_twice_at_once(manager: JobManager, executor: FakeExecutor) -> None:
    """Two who remove one job both hear when it is gone; a third has nothing to do."""
    job = await ended(manager, executor)
    executor.bin.clear()
    removals = [asyncio.create_task(manager.remove(job)) for _ in range(2)]
    await asyncio.sleep(0.01)
    assert not any(removal.done() for removal in removals)

    with pytest.raises(JobNotFound):
        manager.get(job.id, owner="alice")

    executor.bin.set()
    await asyncio.wait_for(asyncio.gather(*removals), DEADLINE)
    await manager.remove(job)

    assert executor.removed == [job.id]


async def test_keeper_refuses(
    manager: JobManager, executor: FakeExecutor, store: JobStore
) -> None:
    """A job that cannot be removed is there as before, at its place and whole."""
    jobs = [await ended(manager, executor, request=f"{n}") for n in range(3)]
    executor.refusal = Unavailable("the disk is read-only")

    with jobs[1].subscribe({Stream.STDOUT: 0}) as reading:
        with pytest.raises(Unavailable, match="read-only"):
            await manager.remove(jobs[1])

        assert await runs_of(reading) == [(Stream.STDOUT, b"out")]

    executor.output(jobs[1].id).directory.spool(Stream.STDOUT).unlink()

    with jobs[1].subscribe({Stream.STDOUT: 0}) as reading:
        assert await asyncio.wait_for(reading.ready(), DEADLINE)

        with pytest.raises(FileNotFoundError):
            reading.take(1)

    assert ids(manager) == [job.id for job in reversed(jobs)]
    assert len(await store.load()) == 3
    executor.refusal = None
    await manager.remove(jobs[1])
    assert ids(manager) == [jobs[2].id, jobs[0].id]


async def test_both_hear_of_a_refusal(
    manager: JobManager, executor: FakeExecutor
) -> None:
    """Nobody is told that a job is gone which is not."""
    job = await ended(manager, executor)
    executor.bin.clear()
    executor.refusal = Unavailable("the disk is read-only")
    removals = [asyncio.create_task(manager.remove(job)) for _ in range(2)]
    await asyncio.sleep(0)
    executor.bin.set()
    results = await asyncio.gather(*removals, return_exceptions=True)

    assert [type(result) for result in results] == [Unavailable] * 2


async def test_caller_may_leave(
    manager: JobManager, executor: FakeExecutor, store: JobStore
) -> None:
    """A removal goes on to its end when who asked for it has gone."""
    job = await ended(manager, executor)
    executor.bin.clear()

    with job.subscribe({Stream.STDOUT: 3}, until=1 << 62) as reading:
        caller = asyncio.create_task(manager.remove(job))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait([caller])
        executor.bin.set()
        await asyncio.wait_for(manager.remove(job), DEADLINE)

        with pytest.raises(JobRemoved):
            await asyncio.wait_for(reading.ready(), DEADLINE)

    assert caller.cancelled()
    assert await store.load() == []


async def test_caller_leaves_a_refusal(
    manager: JobManager, executor: FakeExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """A removal that fails when nobody waits for it makes no noise."""
    job = await ended(manager, executor)
    executor.bin.clear()
    executor.refusal = Unavailable("no")
    caller = asyncio.create_task(manager.remove(job))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])
    executor.bin.set()
    await asyncio.sleep(0.01)

    assert ids(manager) == [job.id]
    assert "never retrieved" not in caplog.text


async def test_same_request_afterwards(
    manager: JobManager, executor: FakeExecutor, store: JobStore
) -> None:
    """The request of a removed job makes a new one, also for another command."""
    job = await ended(manager, executor)
    await manager.remove(job)
    other, created = await manager.run(
        replace(TRUE, name="other"), owner="alice", request_id="1"
    )

    assert created
    assert other.id != job.id
    assert [record.status.id for record in await store.load()] == [other.id]


async def test_same_request_meanwhile(
    manager: JobManager, executor: FakeExecutor, store: JobStore
) -> None:
    """Until a job is gone, its request still means that job, and no second one."""
    job = await ended(manager, executor)
    executor.bin.clear()
    removal = asyncio.create_task(manager.remove(job))
    await asyncio.sleep(0)
    again = await manager.run(TRUE, owner="alice", request_id="1")
    other, _ = await manager.run(TRUE, owner="bob", request_id="1")
    executor.bin.set()
    await asyncio.wait_for(removal, DEADLINE)

    assert again == (job, False)
    assert [record.status.id for record in await store.load()] == [other.id]


async def test_record_that_stays(
    manager: JobManager, executor: FakeExecutor, store: JobStore, config: Config
) -> None:
    """A record that cannot be removed is told, is in nobody's way, and goes later."""
    job = await ended(manager, executor)
    await store.save(job.record)
    await refuse(store)

    with pytest.raises(Unavailable, match=r"was removed, its record could not be"):
        await manager.remove(job)

    assert ids(manager) == []
    await accept(store)
    later = JobManager(
        executor=executor, store=store, config=config, counters=Counters()
    )
    await later.load()
    assert list(later.list(owner="alice")) == []
    again = await started(later)
    await store.save(again.record)
    assert [record.status.id for record in await store.load()] == [again.id]
    later.close()


async def test_request_of_a_record_that_stays(
    manager: JobManager, executor: FakeExecutor, store: JobStore
) -> None:
    """Nor is it in the way of a new job of the same request, or of anybody else's."""
    job = await ended(manager, executor)
    await store.save(job.record)
    await refuse(store)

    with pytest.raises(Unavailable):
        await manager.remove(job)

    await accept(store)
    runs = [manager.run(TRUE, owner=name, request_id="1") for name in ("alice", "bob")]
    jobs = [job for job, _ in await asyncio.gather(*runs)]

    assert {record.status.id for record in await store.load()} == {
        each.id for each in jobs
    }


@pytest.mark.parametrize(
    ("record", "stays"),
    [
        (record_of("1-job", state=JobState.FINISHED, started_at=5), False),
        (record_of("1-job", state=JobState.LOST, started_at=5), False),
        (record_of("1-job", state=JobState.FAILED), True),
        (record_of("1-job", state=JobState.RUNNING, started_at=5), True),
    ],
    ids=["finished", "lost", "failed", "running"],
)
async def test_directory_that_is_gone(
    config: Config,
    executor: FakeExecutor,
    store: JobStore,
    record: object,
    *,
    stays: bool,
) -> None:
    """A removal that a crash cut short is completed at the next start."""
    assert isinstance(record, type(record_of()))
    await store.save(record)
    executor.known[record.status.id] = LAUNCHED
    manager = JobManager(
        executor=executor, store=store, config=config, counters=Counters()
    )
    await manager.load()
    await store.save(record_of("another"))

    assert bool(ids(manager)) == stays
    assert ("1-job" in {each.status.id for each in await store.load()}) == stays
    manager.close()


@pytest.mark.parametrize("use", [JobManager.stop, JobManager.signal])
async def test_removed_job_in_hand(
    manager: JobManager, executor: FakeExecutor, use: Callable[..., None]
) -> None:
    """Who still has the job in hand does no harm with it."""
    job = await ended(manager, executor)
    await manager.remove(job)
    options = {"grace": None} if use is JobManager.stop else {"tree": True}
    use(manager, job, *([] if use is JobManager.stop else [9]), **options)

    assert executor.executions[job.id].calls == []
    assert (await asyncio.wait_for(job.wait(), DEADLINE)).exit_code == 3


async def test_live_reader_of_another_job(
    manager: JobManager, executor: FakeExecutor
) -> None:
    """A removal is nothing to the readers of other jobs."""
    job, other = await ended(manager, executor), await started(manager, request="2")

    with other.subscribe(BOTH) as reading:
        waiting = await caught_up(reading)
        await manager.remove(job)
        executor.write(other.id, b"more")
        assert await asyncio.wait_for(waiting, DEADLINE)
