"""However much the database lacks, no command runs a second time."""

import asyncio

import pytest

from teleworkerd.config import Config
from teleworkerd.counters import Counters
from teleworkerd.jobs.manager import JobManager
from teleworkerd.jobs.succession import Circumstances
from teleworkerd.protocol.errors import Unavailable
from teleworkerd.store import JobRecord, JobStore, StoreError
from teleworkerd.store.database import Database
from tests.fakes import DEADLINE, TRUE, FakeExecutor


async def run_to_its_end(manager: JobManager, executor: FakeExecutor) -> JobRecord:
    """Run a job; return its record as it was when the job was started."""
    executor.gate.clear()
    executor.exits_at_once = True
    running = asyncio.create_task(manager.run(TRUE, owner="alice", request_id="1"))

    async with asyncio.timeout(DEADLINE):
        while not executor.started:  # noqa: ASYNC110 - the fake tells no event
            await asyncio.sleep(0)

    [job] = manager
    stale = job.record
    executor.gate.set()
    await running
    await job.wait()
    return stale


async def load_next(executor: FakeExecutor, store: JobStore, config: Config) -> None:
    """Have the next server of the same keeper take over, and start what it does."""
    manager = JobManager(
        executor=executor, store=store, config=config, counters=Counters()
    )

    try:
        await manager.load(Circumstances(resume=True))
        await manager.settle()
    finally:
        manager.close()


async def test_stale_record(
    manager: JobManager, executor: FakeExecutor, store: JobStore, config: Config
) -> None:
    """A job that has ended unnoticed is not started, as its directory is there."""
    await store.save(await run_to_its_end(manager, executor))

    await load_next(executor, store, config)

    assert len(executor.started) == 1


async def test_removal_before_all_is_written(
    manager: JobManager,
    executor: FakeExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job of which the database knows less than all is not removed; others are.

    Without its directory the next server would take it for one never started.
    """

    def fail(*_: object) -> None:
        raise StoreError("the disk is full")

    old, _ = await manager.run(TRUE, owner="alice", request_id="1")
    job, _ = await manager.run(TRUE, owner="alice", request_id="2")
    executor.exit(old.id)
    await manager._store.save(old.record)
    monkeypatch.setattr(Database, "write", fail)
    executor.exit(job.id)

    with pytest.raises(Unavailable, match="is not removed: the disk is full"):
        await manager.remove(job)

    assert manager.get(job.id, owner="alice") is job
    assert executor.removed == []
    assert manager._store.is_behind(job.id)

    with pytest.raises(Unavailable, match="was removed, its record could not be"):
        await manager.remove(old)

    assert executor.removed == [old.id]
