"""Which jobs are kept no longer: by age, number and size, for each owner."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from teleworkerd.jobs.job import Job
from teleworkerd.jobs.manager import JobManager
from teleworkerd.jobs.retention import SECOND, Retention, expired
from teleworkerd.protocol.errors import Unavailable
from teleworkerd.protocol.types import Stream
from teleworkerd.settings import RetentionConfig
from tests.fakes import DEADLINE, EXITED, TRUE, FakeExecutor


NOW = 1000 * SECOND
FOR_EVER = RetentionConfig(age=0, count=0, bytes=0)


@dataclass
class Old:
    """As much of a job as the rules look at."""

    ended_at: int | None
    kept_bytes: int = 1
    readers: int = 0
    created_at: int = 0

    @property
    def facts(self) -> "Old":
        """The job itself."""
        return self


def going(jobs: list[Old], **rules: int) -> list[int]:
    """Return the numbers of those *jobs* that are to go."""
    found = expired(jobs, replace(FOR_EVER, **rules), now=NOW)  # type: ignore[arg-type]  # stand-ins
    return [jobs.index(job) for job in found]  # type: ignore[arg-type]  # as above


def aged(*seconds: float, **facts: int) -> list[Old]:
    """Return jobs that ended so many seconds ago."""
    return [Old(NOW - int(each * SECOND), **facts) for each in seconds]


@pytest.mark.parametrize(
    ("age", "gone"),
    [(0, []), (300, []), (299, [0]), (200, [0]), (150, [0, 1]), (1, [0, 1, 2])],
)
def test_age(age: int, gone: list[int]) -> None:
    """Older than the age is too old; just as old is not."""
    assert going(aged(300, 200, 100), age=age) == gone


@pytest.mark.parametrize(("count", "gone"), [(0, []), (3, []), (2, [0]), (1, [0, 1])])
def test_count(count: int, gone: list[int]) -> None:
    """The oldest go, until there are no more than may be."""
    assert going(aged(300, 200, 100), count=count) == gone


@pytest.mark.parametrize(
    ("size", "gone"),
    [(0, []), (30, []), (29, [0]), (20, [0]), (10, [0, 1]), (9, [0, 1, 2])],
)
def test_bytes(size: int, gone: list[int]) -> None:
    """The oldest go, until what is left is no larger than it may be."""
    assert going(aged(300, 200, 100, kept_bytes=10), bytes=size) == gone


def test_oldest_first() -> None:
    """It is the end that counts, not the order in which the jobs began."""
    assert going(aged(100, 300, 200), count=1) == [1, 2]


def test_all_rules_together() -> None:
    """A job goes if any one of the rules says so."""
    jobs = aged(500, 400, 300, 200, 100, kept_bytes=10)

    assert going(jobs, age=450, count=4, bytes=20) == [0, 1, 2]


def test_job_that_is_read() -> None:
    """A job that is read stays, and counts; younger ones go in its place."""
    jobs = aged(300, 200, 100, kept_bytes=10)
    jobs[0].readers = 1

    assert going(jobs, count=2) == [1]
    assert going(jobs, count=1) == [1, 2]
    assert going(jobs, bytes=15) == [1, 2]
    assert going(jobs, age=250) == []


def test_lost_job() -> None:
    """Of a job whose end nobody knows the beginning counts."""
    jobs = [*aged(200, 100), Old(None, created_at=NOW - 150 * SECOND)]

    assert going(jobs, count=1) == [0, 2]
    assert going(jobs, age=120) == [0, 2]


async def ended(
    manager: JobManager, executor: FakeExecutor, owner: str, *sizes: int
) -> list[Job]:
    """Return jobs of *owner* that have ended one by one, with such outputs."""
    jobs = []

    for number, size in enumerate(sizes):
        job, _ = await manager.run(TRUE, owner=owner, request_id=f"{number}")
        executor.write(job.id, bytes(size))
        executor.exit(job.id, replace(EXITED, ended_at=time.time_ns()))
        jobs.append(job)

    return jobs


def left(manager: JobManager, owner: str) -> list[str]:
    """Return what an owner still has, oldest first."""
    return [status.id for status in manager.list(owner=owner)][::-1]


async def test_each_owner(manager: JobManager, executor: FakeExecutor) -> None:
    """What one owner keeps costs no other anything; what runs is not counted."""
    alice = await ended(manager, executor, "alice", 10, 10, 10)
    bob = await ended(manager, executor, "bob", 5, 5)
    running, _ = await manager.run(TRUE, owner="bob", request_id="running")
    executor.write(running.id, bytes(1000))
    await Retention(manager, replace(FOR_EVER, count=2, bytes=15)).sweep()

    assert left(manager, "alice") == [alice[2].id]
    assert left(manager, "bob") == [*(job.id for job in bob), running.id]
    assert executor.removed == [alice[0].id, alice[1].id]


async def test_dropped_bytes_do_not_count(
    manager: JobManager, executor: FakeExecutor
) -> None:
    """What was not kept takes no room."""
    job, _ = await manager.run(TRUE, owner="alice", request_id="1")
    executor.write(job.id, bytes(10))
    executor.drop(job.id, 1000, Stream.STDERR)
    executor.exit(job.id, sealed=False)
    await asyncio.wait_for(job.wait(), DEADLINE)
    await Retention(manager, replace(FOR_EVER, bytes=10)).sweep()

    assert left(manager, "alice") == [job.id]


async def test_reader_keeps_its_job(
    manager: JobManager, executor: FakeExecutor
) -> None:
    """A job that is read is looked at again when its reader has gone."""
    jobs = await ended(manager, executor, "alice", 1, 1)
    retention = Retention(manager, replace(FOR_EVER, age=0.001))
    await asyncio.sleep(0.01)

    with jobs[0].subscribe(dict.fromkeys(Stream, 0)):
        await retention.sweep()
        assert left(manager, "alice") == [jobs[0].id]

    await retention.sweep()
    assert left(manager, "alice") == []


async def test_for_ever(manager: JobManager, executor: FakeExecutor) -> None:
    """Without any rule all is kept; a new configuration counts from the next look."""
    jobs = await ended(manager, executor, "alice", 1, 1)
    retention = Retention(manager, FOR_EVER)
    await retention.sweep()
    assert left(manager, "alice") == [job.id for job in jobs]

    retention.configure(replace(FOR_EVER, count=1))
    await retention.sweep()
    assert left(manager, "alice") == [jobs[1].id]


async def test_refusal_stops_nothing(
    manager: JobManager, executor: FakeExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be removed now is told, and tried again at the next look."""
    await ended(manager, executor, "alice", 1, 1)
    await ended(manager, executor, "bob", 1, 1)
    executor.refusal = Unavailable("the disk is read-only")
    retention = Retention(manager, replace(FOR_EVER, count=1))
    await retention.sweep()
    assert caplog.text.count("the disk is read-only") == 2

    executor.refusal = None
    await retention.sweep()
    assert [len(left(manager, owner)) for owner in ("alice", "bob")] == [1, 1]


async def test_removed_by_its_owner_meanwhile(
    manager: JobManager, executor: FakeExecutor
) -> None:
    """A job that its owner removes while the look is under way is removed once."""
    jobs = await ended(manager, executor, "alice", 1, 1, 1)
    executor.bin.clear()
    sweep = asyncio.create_task(Retention(manager, replace(FOR_EVER, count=1)).sweep())
    await asyncio.sleep(0)
    removal = asyncio.create_task(manager.remove(jobs[1]))
    await asyncio.sleep(0)
    executor.bin.set()
    await asyncio.wait_for(asyncio.gather(sweep, removal), DEADLINE)

    assert sorted(executor.removed) == sorted([jobs[0].id, jobs[1].id])
    assert left(manager, "alice") == [jobs[2].id]


async def test_again_and_again(
    manager: JobManager,
    executor: FakeExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It looks at the start, and then once in each interval, until it is cancelled."""
    looks: asyncio.Queue[None] = asyncio.Queue()
    config = replace(FOR_EVER, count=1)
    object.__setattr__(config, "interval", 0.001)
    retention = Retention(manager, config)
    sweep: Callable[[], object] = retention.sweep

    async def look() -> None:
        await sweep()  # type: ignore[misc]  # a coroutine
        looks.put_nowait(None)

    monkeypatch.setattr(retention, "sweep", look)
    running = asyncio.create_task(retention.run())

    for _ in range(3):
        await asyncio.wait_for(looks.get(), DEADLINE)

    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()


async def test_a_look_that_fails(
    manager: JobManager,
    executor: FakeExecutor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What goes wrong in one look is told, and does not end the looking."""
    jobs = await ended(manager, executor, "alice", 1, 1)
    config = replace(FOR_EVER, count=1)
    object.__setattr__(config, "interval", 0.001)
    all_ended, looks, gone = manager.ended, iter([OSError("odd")]), asyncio.Event()

    def look() -> object:
        if (error := next(looks, None)) is not None:
            raise error

        if jobs[0].id in executor.removed:
            gone.set()

        return all_ended()

    monkeypatch.setattr(manager, "ended", look)
    running = asyncio.create_task(Retention(manager, config).run())
    await asyncio.wait_for(gone.wait(), DEADLINE)
    running.cancel()
    await asyncio.wait([running])

    assert "could be removed" in caplog.text
    assert left(manager, "alice") == [jobs[1].id]
