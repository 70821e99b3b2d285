"""Jobs from Python, with a real keeper and real processes; nothing is left."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from teleworkerd.config import Config
from teleworkerd.executors.keeper_link import KeeperGone
from teleworkerd.jobs.job import Job
from teleworkerd.jobs.manager import JobManager
from teleworkerd.jobs.standalone import open_jobs
from teleworkerd.protocol.errors import LaunchFailed, Unavailable
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.types import Chunk, JobState, Reason, Stream
from teleworkerd.settings import DaemonConfig, JobsConfig
from teleworkerd.store import StoreError
from tests.fakes import DEADLINE


pytestmark = pytest.mark.slow

FAMILY = b"trap '' TERM; sh -c 'echo $$; exec sleep 1000' & echo $$; wait; sleep 1000"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A state directory of its own, and no patience with jobs."""
    return Config(
        DaemonConfig(state_dir=str(tmp_path / "state")),
        JobsConfig(shutdown_grace=0.1, linger=0.05),
    )


def descriptors() -> int:
    """Return how many files and sockets this process has open."""
    targets = []

    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            targets.append(str(entry.readlink()))

    # uvloop makes itself a pipe for signals, once, and keeps it.
    return sum(not target.startswith("pipe:") for target in targets)


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """No process of ours, no group of a job and no descriptor stays behind."""
    before = descriptors()
    yield
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    jobs = {path.name for path in (tmp_path / "state" / "jobs").glob("*")}
    groups = {path.name for path in Path("/sys/fs/cgroup").glob("*/teleworker/*")}

    assert children == ""
    assert jobs & groups == set()
    assert descriptors() == before


async def start(manager: JobManager, script: bytes, *, request: str = "1") -> Job:
    """Run a shell with *script*."""
    spec = JobSpec((b"sh", b"-c", script), workdir=b"/")
    job, _ = await manager.run(spec, owner="me", request_id=request)
    return job


async def read(job: Job, stream: Stream = Stream.STDOUT, *, lines: int = -1) -> bytes:
    """Return the first *lines* of what the job writes; all of it with -1."""
    found = b""

    async with asyncio.timeout(DEADLINE):
        with job.subscribe({stream: 0}) as reader:
            while found.count(b"\n") != lines and await reader.ready():
                piece = reader.take(1 << 20)
                assert isinstance(piece, Chunk)
                found += piece.data

    return found


async def family(manager: JobManager) -> tuple[Job, list[int]]:
    """Start a job that SIGTERM does not end; return it and its two processes."""
    job = await start(manager, FAMILY)
    return job, [int(pid) for pid in (await read(job, lines=2)).split()]


def facts(pid: int) -> list[str]:
    """Return what the kernel says of a process, from its state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def parent(pid: int) -> int:
    """Return the parent of a process."""
    return int(facts(pid)[1])


def lives(pid: int) -> bool:
    """Return whether there is such a process, and it is not dead already."""
    try:
        return facts(pid)[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_job(config: Config) -> None:
    """A job's output and its end come back, and are there at the next opening."""
    async with open_jobs(config) as manager:
        job = await start(manager, b"seq 100000; echo oops >&2; exit 3")
        output = await read(job)
        status = await asyncio.wait_for(job.wait(), DEADLINE)

    assert output == b"".join(b"%d\n" % number for number in range(1, 100_001))
    assert (status.exit_code, status.state) == (3, JobState.FINISHED)
    assert (status.stdout.end, status.stderr.end) == (len(output), 5)

    async with open_jobs(config) as manager:
        again = manager.get(job.id, owner="me")
        assert await read(again) == output
        assert await read(again, Stream.STDERR) == b"oops\n"
        assert again.status == status


async def test_many_readers_of_a_live_job(config: Config) -> None:
    """Readers that come while the job writes all get everything."""
    async with open_jobs(config) as manager:
        job = await start(manager, b"for i in 1 2 3 4 5; do seq 20000; done")
        outputs = await asyncio.gather(*(read(job) for _ in range(8)))

    assert outputs == [b"".join(b"%d\n" % n for n in range(1, 20_001)) * 5] * 8


async def test_command_that_is_not_there(config: Config) -> None:
    """What cannot be started is an error, with the errno."""
    async with open_jobs(config) as manager:
        with pytest.raises(LaunchFailed) as caught:
            await manager.run(
                JobSpec((b"/no/such",), workdir=b"/"), owner="me", request_id="1"
            )

    assert caught.value.details["stage"] == "exec"
    assert caught.value.details["errno"] == 2


async def test_end_of_the_block(config: Config) -> None:
    """Jobs that run at the end are ended, with their trees, by the shutdown."""
    async with open_jobs(config) as manager:
        job, pids = await family(manager)
        assert all(map(lives, pids))

    assert job.status.state is JobState.STOPPED
    assert job.status.reason is Reason.SHUTDOWN
    assert not any(map(lives, pids))


async def test_error_in_the_block(config: Config) -> None:
    """An error of the caller's ends the jobs too, and is what comes out."""
    found: list[int] = []

    async def fail() -> None:
        async with open_jobs(config) as manager:
            _, pids = await family(manager)
            found.extend(pids)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    assert len(found) == 2
    assert not any(map(lives, found))

    async with open_jobs(config) as manager:
        (status,) = manager.list(owner="me")
        job = manager.get(status.id, owner="me")
        status = await asyncio.wait_for(job.wait(), DEADLINE)
        assert status.reason is Reason.SHUTDOWN


@pytest.fixture
def doomed() -> Iterator[list[int]]:
    """Processes that are killed at the end, if they still live."""
    pids: list[int] = []
    yield pids

    for pid in filter(lives, pids):
        os.kill(pid, signal.SIGKILL)


async def test_keeper_killed(config: Config, doomed: list[int]) -> None:
    """Without its keeper a job is lost; who waits hears it, the next one clears up."""
    async with open_jobs(config) as manager:
        job, pids = await family(manager)
        doomed += pids
        os.kill(parent(job.status.pid or 0), signal.SIGKILL)
        status = await asyncio.wait_for(job.wait(), DEADLINE)

        with pytest.raises(Unavailable):
            await start(manager, b"true", request="2")

    assert (status.state, status.exit_code) == (JobState.LOST, None)

    async with open_jobs(config) as manager:
        assert manager.get(job.id, owner="me").status.state is JobState.LOST

        if os.geteuid() == 0:
            assert not any(map(lives, pids))


async def test_directory_in_use(
    config: Config, capfd: pytest.CaptureFixture[str]
) -> None:
    """A state directory has one keeper."""
    async with open_jobs(config):
        with pytest.raises(KeeperGone):
            async with open_jobs(config):
                pass

    assert "belongs to a running teleworkerd" in capfd.readouterr().err


async def test_database_that_cannot_be_opened(config: Config) -> None:
    """A store that cannot be opened leaves no keeper behind."""
    config.state_dir.mkdir()
    config.database.mkdir()

    with pytest.raises(StoreError, match=r"jobs\.sqlite"):
        async with open_jobs(config):
            pass
