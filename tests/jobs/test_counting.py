"""What the jobs count, for whoever looks."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from teleworkerd.config import Config
from teleworkerd.counters import STARTED, Counters
from teleworkerd.execution import LaunchError
from teleworkerd.jobs.job import Job
from teleworkerd.jobs.manager import JobManager
from teleworkerd.protocol.errors import LaunchFailed
from teleworkerd.protocol.status import LaunchFailure
from teleworkerd.protocol.types import JobState, LaunchStage, Reason, Stream
from teleworkerd.store import JobStore
from tests.fakes import LAUNCHED, TRUE, FakeExecutor


@pytest.fixture
def counters() -> Counters:
    """Nothing has been counted yet."""
    return Counters()


@pytest_asyncio.fixture
async def manager(
    config: Config, executor: FakeExecutor, store: JobStore, counters: Counters
) -> AsyncIterator[JobManager]:
    """A manager that counts."""
    manager = JobManager(
        executor=executor, store=store, config=config, counters=counters
    )
    await manager.load()
    yield manager
    manager.close()


async def started(manager: JobManager) -> Job:
    """Return a job that runs."""
    job, _ = await manager.run(TRUE, owner="alice", request_id="1")
    return job


def ends(counters: Counters) -> dict[Reason, int]:
    """Return the reasons for which jobs have ended."""
    return {reason: count for reason, count in counters.ends.items() if count}


async def test_output(
    manager: JobManager, executor: FakeExecutor, counters: Counters
) -> None:
    """Each byte counts once, when it comes, and one that is dropped as well."""
    job = await started(manager)
    executor.write(job.id, b"12345")
    executor.write(job.id, b"678", Stream.STDERR)
    executor.drop(job.id, 100)
    executor.exit(job.id)

    assert counters.output_bytes == 108
    assert counters.dropped_bytes == 100


async def test_output_of_earlier_servers(
    manager: JobManager, executor: FakeExecutor, store: JobStore, config: Config
) -> None:
    """What was there when the server began was counted by those before it."""
    job = await started(manager)
    executor.write(job.id, b"12345")
    executor.drop(job.id, 100)
    await store.save(job.record)
    executor.known[job.id] = LAUNCHED
    counters = Counters()
    later = JobManager(executor=executor, store=store, config=config, counters=counters)
    await later.load()
    executor.write(job.id, b"6")

    assert counters.output_bytes == 1
    assert counters.dropped_bytes == 0
    later.close()


async def test_ends(
    manager: JobManager, executor: FakeExecutor, counters: Counters
) -> None:
    """A job ends once, for one reason."""
    job = await started(manager)
    executor.exit(job.id)
    executor.exit(job.id)
    await job.wait()

    assert ends(counters) == {Reason.EXITED: 1}


async def test_launches(
    manager: JobManager, executor: FakeExecutor, counters: Counters
) -> None:
    """Each job is a launch, however often its request comes; failures have a code."""
    await started(manager)
    await started(manager)
    failure = LaunchFailure(LaunchStage.EXEC, 2, "no such file")
    executor.error = LaunchError(failure)

    with pytest.raises(LaunchFailed):
        await manager.run(TRUE, owner="alice", request_id="2")

    assert counters.launches == {STARTED: 1, "launch_failed": 1}
    assert ends(counters) == {Reason.LAUNCH: 1}


async def test_all_jobs(manager: JobManager, executor: FakeExecutor) -> None:
    """Who looks at all jobs sees everybody's."""
    job = await started(manager)
    other, _ = await manager.run(TRUE, owner="bob", request_id="1")

    assert set(manager) == {job, other}
    assert manager.counts()[JobState.RUNNING] == 2


async def test_held_up(manager: JobManager, executor: FakeExecutor) -> None:
    """A job is held up until its output is taken again."""
    job = await started(manager)
    executor.sinks[job.id].output_held_up("the disk is full")
    was_held_up = job.is_held_up
    executor.sinks[job.id].output_held_up(None)

    assert was_held_up
    assert not job.is_held_up
