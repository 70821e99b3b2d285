"""Starts that do not go as they should: what is told, what is recorded."""

import asyncio

import pytest

from teleworkerd.execution import LaunchError
from teleworkerd.executors.base import StartUnknown
from teleworkerd.jobs.manager import JobManager
from teleworkerd.protocol.errors import LaunchFailed, Unavailable
from teleworkerd.protocol.status import LaunchFailure
from teleworkerd.protocol.types import JobState, LaunchStage
from teleworkerd.store import JobStore, StoreError
from teleworkerd.store.database import Database
from tests.fakes import DEADLINE, TRUE, FakeExecutor


FAILURE = LaunchFailure(LaunchStage.EXEC, 2, "no such program")


async def test_failure_is_recorded_first(
    manager: JobManager, executor: FakeExecutor, store: JobStore
) -> None:
    """Whoever is told that a job never ran, is told what stays true."""
    executor.error = LaunchError(FAILURE, failed_at=77)

    with pytest.raises(LaunchFailed):
        await manager.run(TRUE, owner="alice", request_id="1")

    [record] = await store.load()
    assert record.status.state is JobState.FAILED
    assert record.status.ended_at == 77


@pytest.mark.parametrize(
    "error", [StartUnknown("the keeper went away"), RuntimeError("a bug")]
)
async def test_start_that_nobody_knows_of(
    manager: JobManager, executor: FakeExecutor, error: Exception
) -> None:
    """Neither a first nor a second request says that such a job runs, or failed."""
    executor.error = error

    for _ in range(2):
        with pytest.raises(Unavailable, match="may run or not") as caught:
            await manager.run(TRUE, owner="alice", request_id="1")

        assert caught.value.details == {"retry_after": 1}

    (status,) = manager.list(owner="alice")
    assert status.state is JobState.STARTING
    assert len(executor.started) == 1


@pytest.mark.parametrize("error", [StoreError("the disk is full"), OSError("a fault")])
async def test_record_that_cannot_be_written(
    manager: JobManager,
    executor: FakeExecutor,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    """Without a record nothing is started."""

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Database, "write", fail)

        with pytest.raises(Unavailable, match=f"could not be started: .*{error}"):
            await manager.run(TRUE, owner="alice", request_id="1")

    (status,) = manager.list(owner="alice")
    assert status.state is JobState.FAILED
    assert executor.started == []


async def test_leaving(manager: JobManager, executor: FakeExecutor) -> None:
    """A server that leaves lets begin what is on its way, and takes nothing more."""
    executor.gate.clear()
    run = asyncio.create_task(manager.run(TRUE, owner="alice", request_id="1"))
    await asyncio.sleep(0)
    leaving = asyncio.create_task(manager.leave())
    await asyncio.sleep(0)

    with pytest.raises(Unavailable, match="shutting down"):
        await manager.run(TRUE, owner="alice", request_id="2")

    assert not leaving.done()
    executor.gate.set()
    await asyncio.wait_for(leaving, DEADLINE)
    job, _ = await run
    assert job.status.state is JobState.RUNNING
