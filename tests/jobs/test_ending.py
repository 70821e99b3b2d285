"""Stopping jobs, shutting down, and taking over after a restart."""

import asyncio
from dataclasses import replace

import pytest

from teleworkerd.config import Config
from teleworkerd.counters import Counters
from teleworkerd.jobs.manager import JobManager
from teleworkerd.jobs.records import spec_digest
from teleworkerd.jobs.succession import Circumstances
from teleworkerd.protocol.errors import Unavailable
from teleworkerd.protocol.status import StreamStatus
from teleworkerd.protocol.types import JobState, Reason, Stream
from teleworkerd.store import JobRecord, JobStore
from tests.fakes import (
    DEADLINE,
    EXITED,
    LAUNCHED,
    TRUE,
    UNSEALED,
    Clock,
    FakeExecutor,
    record_of,
)
from tests.output.readers import runs_of


async def test_kill(manager: JobManager, executor: FakeExecutor) -> None:
    """SIGKILL makes the job stopping; another signal is none of its state's."""
    job, _ = await manager.run(TRUE, owner="alice", request_id="1")
    manager.signal(job, 15, tree=True)
    states = [job.status.state]
    manager.signal(job, 9, tree=False)
    manager.stop(job, grace=None)
    states.append(job.status.state)
    executor.exit(
        job.id, replace(EXITED, reason=Reason.KILLED, exit_code=137, stopped=True)
    )

    assert states == [JobState.RUNNING, JobState.STOPPING]
    assert executor.executions[job.id].calls == [
        ("signal", 15, True),
        ("signal", 9, False),
        ("stop", None, Reason.KILLED),
    ]
    assert job.status.state is JobState.STOPPED


async def test_stop_waits_for_the_launch(
    manager: JobManager, executor: FakeExecutor
) -> None:
    """A stop before the launch is kept until there is something to stop."""
    executor.gate.clear()
    run = asyncio.create_task(manager.run(TRUE, owner="alice", request_id="1"))
    await asyncio.sleep(0)
    (status,) = manager.list(owner="alice")
    job = manager.get(status.id, owner="alice")
    manager.stop(job, grace=2.5)
    assert job.status.state is JobState.STOPPING

    executor.gate.set()
    await asyncio.wait_for(run, DEADLINE)

    assert job.status.state is JobState.STOPPING
    assert executor.executions[job.id].calls == [("stop", 2.5, Reason.KILLED)]


async def test_shut_down(
    manager: JobManager, executor: FakeExecutor, config: Config
) -> None:
    """A shutdown ends what runs and what starts, takes nothing, and then returns."""
    running, _ = await manager.run(TRUE, owner="alice", request_id="1")
    executor.gate.clear()
    start = asyncio.create_task(manager.run(TRUE, owner="bob", request_id="1"))
    await asyncio.sleep(0)
    ending = asyncio.create_task(manager.shut_down())
    await asyncio.sleep(0)

    with pytest.raises(Unavailable, match="shutting down"):
        await manager.run(TRUE, owner="carol", request_id="1")

    again, _ = await manager.run(TRUE, owner="alice", request_id="1")
    assert again is running
    executor.gate.set()
    starting, _ = await asyncio.wait_for(start, DEADLINE)
    await asyncio.wait_for(executor.executions[starting.id].asked.wait(), DEADLINE)
    assert not ending.done()

    for job in (running, starting):
        assert executor.executions[job.id].calls == [
            ("stop", config.jobs.shutdown_grace, Reason.SHUTDOWN)
        ]
        executor.exit(job.id, replace(EXITED, reason=Reason.SHUTDOWN))

    await asyncio.wait_for(ending, DEADLINE)
    assert running.status.reason is Reason.SHUTDOWN


async def test_settle(manager: JobManager, executor: FakeExecutor) -> None:
    """Without their executor, jobs are what their exit records say, or lost."""
    jobs = []

    for number in range(3):
        job, _ = await manager.run(TRUE, owner="alice", request_id=str(number))
        jobs.append(job)

    executor.exit(jobs[0].id)
    executor.exits[jobs[1].id] = EXITED
    executor.gate.clear()
    start = asyncio.create_task(manager.run(TRUE, owner="bob", request_id="1"))
    await asyncio.sleep(0)
    settling = asyncio.create_task(manager.settle())
    executor.error = Unavailable("the keeper went away")
    executor.gate.set()
    await asyncio.wait_for(settling, DEADLINE)

    states = [job.status.state for job in jobs]
    assert states == [JobState.FINISHED, JobState.FINISHED, JobState.LOST]

    with pytest.raises(Unavailable):
        await start

    await manager.settle()


def stored(number: int, state: JobState, **facts: object) -> JobRecord:
    """Return one of alice's records."""
    return record_of(
        f"0000000{number}-job", state=state, created_at=10 + number, **facts
    )


async def test_load(
    config: Config, executor: FakeExecutor, store: JobStore, manager: JobManager
) -> None:
    """Each kind of record is taken over as what it has become meanwhile."""
    records = {
        "known": stored(1, JobState.RUNNING, started_at=5),
        "known, was starting": stored(2, JobState.STARTING),
        "known, was stopping": stored(3, JobState.STOPPING, started_at=5),
        "exited": stored(4, JobState.RUNNING, started_at=5),
        "exited, was starting": stored(5, JobState.STARTING),
        "exited, was stopping": stored(6, JobState.STOPPING, started_at=5),
        "vanished": stored(7, JobState.RUNNING, started_at=5),
        "vanished, was starting": stored(8, JobState.STARTING),
        "over": stored(
            9,
            JobState.FINISHED,
            started_at=5,
            exit_code=7,
            stdout=StreamStatus(end=4),
        ),
    }

    for kind, record in records.items():
        await store.save(record)
        executor.output(record.status.id).write(b"kept")
        executor.output(record.status.id).record()

        if kind.startswith("known"):
            executor.known[record.status.id] = LAUNCHED
        elif kind.startswith("exited"):
            executor.exits[record.status.id] = replace(UNSEALED, stdout=4)

    later = JobManager(
        executor=executor, store=store, config=config, counters=Counters()
    )
    await later.load()
    jobs = {
        kind: later.get(record.status.id, owner="alice")
        for kind, record in records.items()
    }

    for kind, job in jobs.items():
        if not kind.startswith("known"):
            await asyncio.wait_for(job.wait(), DEADLINE)

    assert {kind: str(job.status.state) for kind, job in jobs.items()} == {
        "known": "running",
        "known, was starting": "running",
        "known, was stopping": "stopping",
        "exited": "finished",
        "exited, was starting": "finished",
        "exited, was stopping": "stopped",
        "vanished": "lost",
        "vanished, was starting": "lost",
        "over": "finished",
    }
    assert {job.size(Stream.STDOUT) for job in jobs.values()} == {4}
    assert {job.size(Stream.STDERR) for job in jobs.values()} == {0}
    assert jobs["over"].status.exit_code == 7
    assert [job.id for job in later.list(owner="alice")] == [
        record.status.id for record in reversed(records.values())
    ]

    later.signal(jobs["known"], 9, tree=True)
    assert executor.executions[jobs["known"].id].calls == [("signal", 9, True)]

    for kind, job in jobs.items():
        assert job.is_over == (not kind.startswith("known"))

    later.close()


async def test_request_known_after_a_restart(
    manager: JobManager, executor: FakeExecutor, config: Config, store: JobStore
) -> None:
    """A lost reply starts nothing twice, even across servers."""
    job, _ = await manager.run(TRUE, owner="alice", request_id="1")
    await store.save(job.record)
    executor.known[job.id] = LAUNCHED
    later = JobManager(
        executor=executor, store=store, config=config, counters=Counters()
    )
    await later.load()
    again, created = await later.run(TRUE, owner="alice", request_id="1")

    assert again.id == job.id
    assert not created
    assert len(executor.started) == 1
    later.close()


async def test_output_of_an_ended_job(
    manager: JobManager, executor: FakeExecutor, config: Config, store: JobStore
) -> None:
    """After the end and a restart every byte is still there, and then the end."""
    job, _ = await manager.run(TRUE, owner="alice", request_id="1")
    executor.write(job.id, b"x" * 5000)
    executor.write(job.id, b"err", Stream.STDERR)
    executor.exit(job.id)
    await store.save(job.record)
    later = JobManager(
        executor=executor, store=store, config=config, counters=Counters()
    )
    await later.load()

    for each in (job, later.get(job.id, owner="alice")):
        with each.subscribe({Stream.STDOUT: 0}) as reader:
            assert await runs_of(reader) == [(Stream.STDOUT, b"x" * 5000)]

        assert each.status == job.status
        assert each.status.stderr.end == 3

    later.close()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (JobState.STARTING, JobState.FAILED),
        (JobState.STOPPING, JobState.STOPPED),
    ],
)
async def test_job_that_was_never_ordered(
    config: Config,
    executor: FakeExecutor,
    store: JobStore,
    before: JobState,
    after: JobState,
) -> None:
    """A job that no keeper has ever heard of did not start; it is not lost."""
    record = stored(1, before)
    await store.save(record)
    later = JobManager(
        executor=executor, store=store, config=config, counters=Counters()
    )

    await later.load()

    status = later.get(record.status.id, owner="alice").status
    assert (status.state, status.reason) == (after, Reason.LAUNCH)
    assert status.error is not None
    assert "before the job was started" in status.error.message
    later.close()


async def test_start_that_is_made_up_for(
    config: Config, executor: FakeExecutor, store: JobStore
) -> None:
    """What a server was about to order when it died, the next one orders, once."""
    record = replace(
        stored(1, JobState.STARTING), spec=TRUE, spec_digest=spec_digest(TRUE)
    )
    await store.save(record)
    later = JobManager(
        executor=executor, store=store, config=config, counters=Counters(), now=Clock()
    )
    await later.load(Circumstances(resume=True))
    job, created = await later.run(TRUE, owner="alice", request_id=record.request_id)

    assert (job.id, created) == (record.status.id, False)
    assert job.status.state is JobState.RUNNING
    assert len(executor.started) == 1
    await store.save(job.record)
    (kept,) = await store.load()
    assert kept.spec is None
    later.close()


async def test_start_that_is_too_old(
    config: Config, executor: FakeExecutor, store: JobStore
) -> None:
    """What nobody asks for any more is not started out of the blue."""
    record = replace(stored(1, JobState.STARTING), spec=TRUE)
    await store.save(record)
    later = JobManager(
        executor=executor, store=store, config=config, counters=Counters()
    )
    await later.load(Circumstances(resume=True))

    assert later.get(record.status.id, owner="alice").status.state is JobState.FAILED
    assert executor.started == []
    later.close()


async def test_start_before_a_power_failure(
    config: Config, executor: FakeExecutor, store: JobStore
) -> None:
    """A job whose directory the disk has lost is lost: it may have run."""
    record = replace(stored(1, JobState.STARTING), spec=TRUE)
    await store.save(record)
    later = JobManager(
        executor=executor, store=store, config=config, counters=Counters(), now=Clock()
    )
    await later.load(Circumstances(was_rebooted=True))
    status = later.get(record.status.id, owner="alice").status

    assert status.state is JobState.LOST
    assert status.lost is not None
    assert "the machine was restarted" in status.lost
    assert executor.started == []
    later.close()
