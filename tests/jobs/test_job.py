"""One job, between its executor and those who ask for it."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from teleworkerd.counters import Counters
from teleworkerd.execution import Postscript
from teleworkerd.jobdir import JobDirectory
from teleworkerd.jobs.job import Job, Means
from teleworkerd.output.digest import Hasher
from teleworkerd.output.joboutput import JobOutput
from teleworkerd.output.sync import Syncer
from teleworkerd.protocol.spec import Limits
from teleworkerd.protocol.status import LaunchFailure
from teleworkerd.protocol.types import Chunk, JobState, LaunchStage, Reason, Stream
from teleworkerd.settings import OutputConfig
from tests.fakes import (
    DEADLINE,
    EXITED,
    LAUNCHED,
    UNSEALED,
    FakeExecution,
    record_of,
)
from tests.output.readers import runs_of


FAILURE = LaunchFailure(LaunchStage.EXEC, 2, "no such program")


class World:
    """A job in a directory of its own, and what was told of it."""

    def __init__(self, path: Path, state: JobState) -> None:
        self.path = path
        self.changes: list[JobState] = []
        self.seals: list[Postscript] = []
        self.hasher = Hasher(1)
        self.syncer = Syncer(0)
        self.output = JobOutput(
            JobDirectory(path),
            OutputConfig(window=2048, chunk=1024, queue_chunks=2),
            self.hasher,
        )
        self.job = Job(
            record_of(state=state),
            self.output,
            Means(
                advanced=lambda job: self.changes.append(job.status.state),
                changed=self._changed,
                seal=self._seal,
                syncer=self.syncer,
                counters=Counters(),
            ),
        )

    def close(self) -> None:
        """End its threads."""
        self.hasher.close()
        self.syncer.close()

    async def _seal(self, job_id: str, postscript: Postscript) -> None:
        self.seals.append(postscript)

    def _changed(self, job: Job) -> asyncio.Future[None]:
        self.changes.append(job.status.state)
        stored = asyncio.get_running_loop().create_future()
        stored.set_result(None)
        return stored


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A job that is starting."""
    world = World(tmp_path, JobState.STARTING)
    yield world
    world.close()


async def test_life(world: World) -> None:
    """A job starts, runs and ends, and each change is worth storing."""
    job = world.job
    job.launched(LAUNCHED)
    assert job.status.applied == Limits(mem=64)
    assert (job.status.pid, job.status.user) == (4711, "nobody")

    job.exited(EXITED)
    status = await asyncio.wait_for(job.wait(), DEADLINE)

    assert world.changes == [JobState.RUNNING, JobState.FINISHED]
    assert (status.exit_code, status.reason, status.ended_at) == (3, Reason.EXITED, 9)
    assert job.record.status == status


async def test_exit_tells_of_a_missed_launch(world: World) -> None:
    """An exit record says all, when the launch was never heard of."""
    world.job.exited(EXITED)

    assert world.job.status.started_at == LAUNCHED.started_at
    assert world.job.status.state is JobState.FINISHED


@pytest.mark.parametrize(
    ("stopped", "state"),
    [
        (True, JobState.STOPPED),
        (False, JobState.FINISHED),
    ],
)
async def test_exit_tells_of_a_missed_stop(
    world: World, *, stopped: bool, state: JobState
) -> None:
    """A job that was ended while there was no server is stopped all the same."""
    world.job.exited(replace(EXITED, stopped=stopped))

    assert world.job.status.state is state


async def test_launched_again_changes_nothing(world: World) -> None:
    """After a restart the same launch is told again."""
    world.job.launched(LAUNCHED)
    world.job.launched(LAUNCHED)

    assert world.changes == [JobState.RUNNING]


async def test_final_state_never_changes(world: World) -> None:
    """What comes after the end leaves no trace."""
    job = world.job
    job.exited(EXITED)
    before = job.status

    job.exited(EXITED)
    job.vanished("too late")
    job.stop_requested()
    job.launch_failed(FAILURE, ended_at=9)

    assert job.status == before
    assert len(world.changes) == 2


async def test_actions_wait_for_the_execution(world: World) -> None:
    """What is asked of a job that starts is done once, in order, when it runs."""
    execution = FakeExecution()
    world.job.act(lambda it: it.signal(1, tree=False))
    world.job.act(lambda it: it.signal(2, tree=True))
    world.job.launched(LAUNCHED)
    world.job.attached(execution)
    world.job.act(lambda it: it.signal(3, tree=False))
    world.job.attached(execution)

    assert [call[1] for call in execution.calls] == [1, 2, 3]


async def test_nothing_is_done_to_a_job_that_is_over(world: World) -> None:
    """An end before the execution is known leaves it alone."""
    execution = FakeExecution()
    world.job.act(lambda it: it.signal(1, tree=False))
    world.job.exited(EXITED)
    world.job.attached(execution)
    world.job.act(lambda it: it.signal(2, tree=False))

    assert execution.calls == []


async def test_stopped_before_it_failed(world: World) -> None:
    """A launch that fails after a stop was asked for counts as stopped."""
    world.job.stop_requested()
    world.job.launch_failed(FAILURE, ended_at=9)

    assert world.job.status.state is JobState.STOPPED
    assert world.job.status.error == FAILURE


async def test_vanished_invents_nothing(world: World) -> None:
    """A job of which nobody knows the end has no code and no time of end."""
    world.job.launched(LAUNCHED)
    world.job.vanished("gone")
    status = await asyncio.wait_for(world.job.wait(), DEADLINE)

    assert (status.state, status.reason) == (JobState.LOST, Reason.LOST)
    assert (status.exit_code, status.signal, status.ended_at) == (None, None, None)


async def test_all_output_is_there_at_the_end(world: World) -> None:
    """Who reads a job gets the bytes of its exit record, then the end."""
    with world.job.subscribe({Stream.STDERR: 0}) as reader:
        (world.path / Stream.STDERR).write_bytes(b"last words")
        world.job.launched(LAUNCHED)
        world.job.exited(replace(UNSEALED, stderr=10))

        assert await runs_of(reader) == [(Stream.STDERR, b"last words")]

    assert world.job.size(Stream.STDERR) == 10
    assert world.job.status.stderr.end == 10


async def test_unreadable_output_does_not_stop_the_job(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A spool that cannot be read is a log line, and an error for its reader."""
    with (
        world.job.subscribe({Stream.STDOUT: 0}) as reader,
        world.job.subscribe({Stream.STDERR: 0}) as other,
    ):
        waiting = [asyncio.create_task(it.ready()) for it in (reader, other)]
        await asyncio.sleep(0)
        (world.path / Stream.STDERR).write_bytes(b"ab")
        world.job.launched(LAUNCHED)
        world.job.output_grown(5, 2)

        assert await asyncio.wait_for(asyncio.gather(*waiting), DEADLINE)

        with pytest.raises(FileNotFoundError):
            reader.take(5)

        assert other.take(5) == Chunk(Stream.STDERR, 0, b"ab")

    assert "output cannot be read" in caplog.text
    assert "stdout" in caplog.text
    assert world.job.status.stdout.end == 5


@pytest.mark.parametrize("state", [state for state in JobState if state.is_final])
async def test_restored_end(tmp_path: Path, state: JobState) -> None:
    """A job that ended under an earlier server is over from the beginning."""
    world = World(tmp_path, state)
    status = await asyncio.wait_for(world.job.wait(), DEADLINE)
    world.close()

    assert world.job.is_over
    assert status.state is state
    assert world.changes == []
