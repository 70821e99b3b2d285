"""Starting jobs: once for each request, whatever goes wrong meanwhile."""

import asyncio
import uuid
from dataclasses import replace

import pytest

from teleworkerd.config import Config
from teleworkerd.counters import Counters
from teleworkerd.execution import LaunchError
from teleworkerd.jobs.manager import JobManager
from teleworkerd.protocol.errors import (
    LaunchFailed,
    LimitRejected,
    NameTaken,
    RequestConflict,
    Unavailable,
)
from teleworkerd.protocol.spec import JobSpec, Limits
from teleworkerd.protocol.status import LaunchFailure
from teleworkerd.protocol.types import JobState, LaunchStage, Reason
from teleworkerd.store import JobStore
from tests.fakes import DEADLINE, TRUE, FakeExecutor
from tests.store.faults import accept, refuse


NAMED = replace(TRUE, name="build")


def failure(stage: LaunchStage, *, limit: str | None = None) -> LaunchError:
    """Return what an executor raises."""
    return LaunchError(LaunchFailure(stage, 2, f"failed at {stage}"), limit=limit)


async def test_run(manager: JobManager, executor: FakeExecutor) -> None:
    """A job runs when `run` returns, and is exactly what was asked for."""
    spec = JobSpec(
        (b"make", b"\xff"),
        workdir=b"/",
        limits=Limits(mem=64),
        name="build",
        labels={"a": "b"},
        timeout=3.0,
    )
    job, created = await manager.run(spec, owner="alice", request_id="1")
    status = job.status

    assert created
    assert status.state is JobState.RUNNING
    assert executor.started == [job.identity]
    assert (status.command, status.workdir) == (spec.command, spec.workdir)
    assert (status.limits, status.timeout) == (spec.limits, spec.timeout)
    assert (status.name, status.labels, status.owner) == ("build", {"a": "b"}, "alice")


async def test_same_request_same_job(
    manager: JobManager, executor: FakeExecutor
) -> None:
    """A request that comes again finds its job, even after the end."""
    job, _ = await manager.run(TRUE, owner="alice", request_id="1")
    again = await manager.run(TRUE, owner="alice", request_id="1")
    executor.exit(job.id)
    later = await manager.run(TRUE, owner="alice", request_id="1")

    assert again == later == (job, False)
    assert len(executor.started) == 1


async def test_duplicates_at_once(manager: JobManager, executor: FakeExecutor) -> None:
    """Of requests that come while the first is under way, one is the first."""
    executor.gate.clear()
    runs = [
        asyncio.create_task(manager.run(TRUE, owner="alice", request_id="1"))
        for _ in range(5)
    ]
    await asyncio.sleep(0)
    executor.gate.set()
    results = await asyncio.wait_for(asyncio.gather(*runs), DEADLINE)

    assert len({job.id for job, _ in results}) == 1
    assert [created for _, created in results] == [True, *[False] * 4]
    assert len(executor.started) == 1


async def test_request_for_another_command(manager: JobManager) -> None:
    """A request id cannot mean two commands."""
    job, _ = await manager.run(TRUE, owner="alice", request_id="1")

    with pytest.raises(RequestConflict) as caught:
        await manager.run(NAMED, owner="alice", request_id="1")

    assert caught.value.details == {"job": job.id}


async def test_request_ids_are_each_owners(manager: JobManager) -> None:
    """The request id of somebody else finds nothing."""
    mine, _ = await manager.run(TRUE, owner="alice", request_id="1")
    theirs, created = await manager.run(NAMED, owner="bob", request_id="1")

    assert created
    assert mine.id != theirs.id


@pytest.mark.parametrize(
    ("error", "kind", "details"),
    [
        (failure(LaunchStage.EXEC), LaunchFailed, {"stage": "exec", "errno": 2}),
        (failure(LaunchStage.CGROUP), LimitRejected, {}),
    ],
)
async def test_failure_again(
    manager: JobManager,
    executor: FakeExecutor,
    error: LaunchError,
    kind: type[LaunchFailed | LimitRejected],
    details: dict[str, str | int],
) -> None:
    """A request that failed fails again in the same way, and starts nothing."""
    executor.error = error
    caught = []

    for _ in range(2):
        with pytest.raises(kind, match=str(error)) as raised:
            await manager.run(TRUE, owner="alice", request_id="1")

        caught.append(raised.value.details)

    (status,) = manager.list(owner="alice")
    assert caught == [{"job": status.id, **details}] * 2
    assert len(executor.started) == 1
    assert (status.state, status.reason) == (JobState.FAILED, Reason.LAUNCH)
    assert status.ended_at is not None


async def test_limit_that_cannot_be(
    manager: JobManager, executor: FakeExecutor
) -> None:
    """A limit that the host cannot apply is named."""
    executor.error = failure(LaunchStage.CGROUP, limit="io")

    with pytest.raises(LimitRejected) as caught:
        await manager.run(TRUE, owner="alice", request_id="1")

    assert caught.value.details["limit"] == "io"


async def test_keeper_gone(manager: JobManager, executor: FakeExecutor) -> None:
    """A job that no executor took is recorded as failed."""
    executor.error = Unavailable("the keeper is gone")

    with pytest.raises(Unavailable, match="the keeper is gone") as caught:
        await manager.run(TRUE, owner="alice", request_id="1")

    (status,) = manager.list(owner="alice")
    assert status.state is JobState.FAILED
    assert caught.value.details == {"job": status.id}


async def test_nothing_starts_unrecorded(
    manager: JobManager, executor: FakeExecutor, store: JobStore
) -> None:
    """What cannot be written down is not started."""
    await refuse(store)

    with pytest.raises(Unavailable, match=r"jobs\.sqlite"):
        await manager.run(TRUE, owner="alice", request_id="1")

    assert executor.started == []
    await accept(store)
    _, created = await manager.run(TRUE, owner="alice", request_id="2")
    assert created


async def test_caller_may_leave(manager: JobManager, executor: FakeExecutor) -> None:
    """The launch goes on when who asked for it has gone."""
    executor.gate.clear()
    caller = asyncio.create_task(manager.run(TRUE, owner="alice", request_id="1"))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])
    executor.gate.set()
    job, created = await asyncio.wait_for(
        manager.run(TRUE, owner="alice", request_id="1"), DEADLINE
    )

    assert caller.cancelled()
    assert not created
    assert job.status.state is JobState.RUNNING


async def test_caller_leaves_a_failure(
    manager: JobManager, executor: FakeExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure that nobody waited for is in the record, and no noise."""
    executor.gate.clear()
    executor.error = failure(LaunchStage.EXEC)
    caller = asyncio.create_task(manager.run(TRUE, owner="alice", request_id="1"))
    await asyncio.sleep(0)
    caller.cancel()
    executor.gate.set()
    await manager.shut_down()

    (status,) = manager.list(owner="alice")
    assert status.state is JobState.FAILED
    assert "never retrieved" not in caplog.text


async def test_launch_cancelled_with_the_loop(
    manager: JobManager, executor: FakeExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """A loop that ends in the middle of a launch has nothing to complain of."""
    executor.gate.clear()
    caller = asyncio.create_task(manager.run(TRUE, owner="alice", request_id="1"))
    await asyncio.sleep(0)
    (launch,) = manager._launches._tasks.values()
    launch.cancel()
    await asyncio.wait([caller, launch])
    await asyncio.sleep(0)

    assert caller.cancelled()
    assert caplog.text == ""


async def test_exit_before_start_returns(
    manager: JobManager, executor: FakeExecutor
) -> None:
    """A job may be over before its start is."""
    executor.exits_at_once = True
    job, created = await manager.run(TRUE, owner="alice", request_id="1")

    assert created
    assert (await asyncio.wait_for(job.wait(), DEADLINE)).exit_code == 3


async def test_id_that_is_taken(
    config: Config, executor: FakeExecutor, store: JobStore
) -> None:
    """An id that a job already has is not given to another."""
    one, two = uuid.UUID(int=1), uuid.UUID(int=2)
    ids = iter([one, one, one, two])
    manager = JobManager(
        executor=executor,
        store=store,
        config=config,
        counters=Counters(),
        new_id=lambda: next(ids),
    )
    first, _ = await manager.run(TRUE, owner="alice", request_id="1")
    second, _ = await manager.run(TRUE, owner="bob", request_id="1")

    assert (first.id, second.id) == (str(one), str(two))
    manager.close()


async def test_name_taken(manager: JobManager, executor: FakeExecutor) -> None:
    """A name is its owner's, and free again once its job has ended."""
    job, _ = await manager.run(NAMED, owner="alice", request_id="1")

    with pytest.raises(NameTaken, match="build") as caught:
        await manager.run(NAMED, owner="alice", request_id="2")

    assert caught.value.details == {"job": job.id}
    await manager.run(NAMED, owner="bob", request_id="2")
    executor.exit(job.id)
    newer, _ = await manager.run(NAMED, owner="alice", request_id="2")
    assert manager.get("build", owner="alice") is newer


async def test_name_taken_while_it_starts(
    manager: JobManager, executor: FakeExecutor
) -> None:
    """A name is taken from the request on, not from the launch."""
    executor.gate.clear()
    first = asyncio.create_task(manager.run(NAMED, owner="alice", request_id="1"))
    await asyncio.sleep(0)

    with pytest.raises(NameTaken):
        await manager.run(NAMED, owner="alice", request_id="2")

    executor.gate.set()
    await asyncio.wait_for(first, DEADLINE)
