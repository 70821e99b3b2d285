"""What the daemon remembers may be lost: the jobs' directories have it all."""

import json
import random
import re
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

import twctl
from teleworkerd.protocol.errors import JobNotFound
from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import JobState, OnFull, Reason, Stream
from tests.e2e.daemon import Daemon, Gate, Place, StartDaemon
from tests.e2e.failpoints import (
    ask,
    end_orphans,
    kill_daemon,
    kill_server,
    processes_of,
    read,
    run_again,
)
from tests.e2e.groups import left_of
from tests.e2e.pki import Certificates


pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

FOUND_AGAIN: Final = r"WARNING.* not in the database: found again"
BROKEN: Final = r"ERROR.* database \S+/jobs\.sqlite is broken .* kept as \S+\.corrupt-"

Damage = Callable[[Path], None]
Death = Callable[[Daemon], None]


def end_daemon(daemon: Daemon) -> None:
    """End it as an operator does."""
    daemon.stop()


def gone(database: Path) -> None:
    """Remove the database."""
    for path in database.parent.glob(f"{database.name}*"):
        path.unlink()


def garbage(database: Path) -> None:
    """Write noise over it, and over its log."""
    for path in (database, database.with_name(f"{database.name}-wal")):
        if path.exists():
            path.write_bytes(random.Random(6).randbytes(path.stat().st_size))


def half(database: Path) -> None:
    """Cut it in half."""
    data = database.read_bytes()
    database.write_bytes(data[: len(data) // 2])


@dataclass(frozen=True, slots=True)
class Copy:
    """All that can be seen of a job."""

    status: JobStatus
    stdout: bytes
    stderr: bytes


class Stock:
    """Jobs that have ended in all ways, in a place where daemons come and go."""

    def __init__(self, certs: Certificates, stack: ExitStack) -> None:
        self.place = Place()
        stack.callback(self.place.remove)
        stack.callback(end_orphans, self.place)
        self.jobs: dict[str, Copy] = {}
        self.late = ""  # one that was stopped when its time was over
        self.removed = ""  # one that is no more
        self._certs = certs
        self._requests: dict[str, tuple[str, ...]] = {}

    def start(self) -> Daemon:
        """Start a daemon."""
        return Daemon(self.place, self._certs)

    @property
    def database(self) -> Path:
        """The file with the records."""
        return self.place.state / "jobs.sqlite"

    async def fill(self, client: twctl.Client) -> None:
        """Run jobs that end, and one that is removed."""
        numbers = "seq 1 5000; seq 1 100 >&2; exit 3"
        await self._run(client, "sh", "-c", numbers, name="old", labels={"k": "v"})
        await self._run(client, "true", env={"LANG": "C"}, workdir="/tmp")
        await self._run(client, "sh", "-c", "echo out; echo err >&2", merge=True)
        await self._run(client, "sh", "-c", "kill -9 $$", mem=50, cpu=20)
        await self._run(client, "sh", "-c", "sleep 300", timeout=0.1)
        dropping = {"output_limit": 10, "on_full": OnFull.DROP}
        await self._run(client, "seq", "1", "1000", **dropping)
        await self._run(client, "/no/such/program")
        await self._run(client, "true", workdir="/no/such/directory")
        await (await self._run(client, "sh", "-c", "sleep 300")).stop()
        await (await self._run(client, "sleep", "300")).kill()

        await self._stop_late(client)

        removed = await client.run(["true"], request_id="removed")
        await removed.wait()
        await removed.remove()
        self.removed = removed.id

        for status in await client.list():
            if status.reason is not Reason.LAUNCH:
                await client.job(status.id).wait()

    async def leave(self, client: twctl.Client) -> None:
        """Run one that the end of the daemon ends."""
        await self._run(client, "sh", "-c", "echo out; exec sleep 300")

    async def look(self, client: twctl.Client) -> dict[str, Copy]:
        """Return all that is said of all jobs, once those that had ended have so."""
        for job in self.jobs:
            await client.job(job).wait()

        return {
            status.id: Copy(
                status,
                await read_all(client, status.id, Stream.STDOUT),
                await read_all(client, status.id, Stream.STDERR),
            )
            for status in await client.list()
        }

    async def check_requests(self, client: twctl.Client) -> None:
        """Check that the requests that made the jobs make no others."""
        for request, command in self._requests.items():
            assert await run_again(client, *command, request_id=request) in self.jobs

    async def _stop_late(self, client: twctl.Client) -> None:
        deaf = "trap 'echo late' TERM; while :; do sleep 0.05; done"
        job = await self._run(client, "sh", "-c", deaf, timeout=0.1)

        async for _ in job.output():
            break

        await job.stop(grace=0)
        self.late = job.id

    async def _run(
        self, client: twctl.Client, *command: str, **spec: Any
    ) -> twctl.RemoteJob:
        request = uuid.uuid4().hex

        if not spec:
            self._requests[request] = command

        try:
            return await client.run(command, request_id=request, **spec)
        except twctl.LaunchFailed as error:
            return client.job(str(error.details["job"]))


async def read_all(client: twctl.Client, job: str, stream: Stream) -> bytes:
    """Return what there is of a stream, gaps or not."""
    output = client.job(job).output(stream, on_gap=lambda _: None, follow=False)
    return b"".join([chunk.data async for chunk in output])


@pytest.fixture
def place() -> Iterator[Place]:
    """Directories for daemons that may leave jobs without one."""
    with ExitStack() as stack:
        directories = Place()
        stack.callback(directories.remove)
        stack.callback(end_orphans, directories)
        yield directories


@pytest.fixture(scope="module")
def stock(certs: Certificates) -> Iterator[Stock]:
    """The jobs, and nothing that runs."""
    with ExitStack() as stack:
        stock = Stock(certs, stack)

        with stock.start() as daemon:
            ask(daemon, stock.fill)
            ask(daemon, stock.leave)

        with stock.start() as daemon:
            stock.jobs = ask(daemon, stock.look)

        yield stock


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job that runs until its gate is opened."""

    id: str
    gate: Gate
    command: tuple[str, ...]

    async def check(self, client: twctl.Client) -> None:
        """Let it end, and check that it does so as if nothing had been."""
        again = await run_again(client, *self.command, request_id=self.gate.path.name)
        assert again == self.id
        self.gate.open()
        status = await client.job(self.id).wait()
        assert (status.state, status.exit_code) == (JobState.FINISHED, 9)
        assert await read(client, self.id) == b"up\ndown\n"


def run_waiting(daemon: Daemon) -> Waiting:
    """Start one."""
    gate = daemon.gate()
    command = ("sh", "-c", f"echo up; {gate.wait}; echo down; exit 9")

    async def run(client: twctl.Client) -> str:
        job = await client.run(command, request_id=gate.path.name)

        async for _ in job.output():
            break

        return job.id

    return Waiting(ask(daemon, run), gate, command)


def without(jobs: dict[str, Copy]) -> list[Copy]:
    """Return *jobs*, newest first, without what tests of their own look at."""
    return [
        replace(copy, status=replace(copy.status, state=JobState.LOST, ended_at=None))
        for copy in jobs.values()
    ]


def check(stock: Stock, daemon: Daemon, said: str, *, broken: bool) -> None:
    """Check all ended jobs, and that the daemon has *said* what it did."""
    found = ask(daemon, stock.look)
    one = next(iter(found))
    others = {job: found.pop(job) for job in [*found] if job not in stock.jobs}

    assert without(found) == without(stock.jobs)
    assert stock.removed not in others
    assert bool(re.search(BROKEN, said)) is broken, said
    assert re.search(FOUND_AGAIN, said), said
    ask(daemon, stock.check_requests)
    assert ask(daemon, lambda client: client.list(), name="bob") == []

    with pytest.raises(JobNotFound):
        ask(daemon, lambda client: client.job(one).status(), name="bob")


@pytest.mark.parametrize(
    ("death", "damage"),
    [
        (kill_daemon, gone),
        (kill_daemon, garbage),
        (end_daemon, garbage),
        (end_daemon, half),
    ],
)
def test_lost_with_the_daemon(stock: Stock, death: Death, damage: Damage) -> None:
    """All ended jobs are as they were, to their owners and to nobody else."""
    with stock.start() as daemon:
        death(daemon)

    before = len(daemon.log())
    damage(stock.database)

    with stock.start() as daemon:
        check(stock, daemon, daemon.log()[before:], broken=damage is not gone)


@pytest.mark.parametrize("damage", [gone, garbage])
def test_lost_with_the_server(stock: Stock, damage: Damage) -> None:
    """What runs meanwhile goes on, and ends as if nothing had been."""
    with stock.start() as daemon:
        waiting = [run_waiting(daemon) for _ in range(2)]
        before = len(daemon.log())
        damage(stock.database)

        kill_server(daemon)

        check(stock, daemon, daemon.log()[before:], broken=damage is not gone)

        for each in waiting:
            ask(daemon, each.check)


@pytest.fixture(scope="module")
def found_again(stock: Stock) -> dict[str, JobStatus]:
    """The jobs, as they are said to be without a database."""
    gone(stock.database)

    with stock.start() as daemon:
        found = ask(daemon, stock.look)

    return {job: found[job].status for job in stock.jobs}


def test_states(stock: Stock, found_again: dict[str, JobStatus]) -> None:
    """A job that was stopped stays so, and one that has ended by itself does."""
    for job, status in found_again.items():
        if job != stock.late:
            assert status.state is stock.jobs[job].status.state


def test_state_of_one_stopped_late(
    stock: Stock, found_again: dict[str, JobStatus]
) -> None:
    """So does one that had another reason to end, and was stopped as well."""
    assert stock.jobs[stock.late].status.state is JobState.STOPPED
    assert found_again[stock.late].state is JobState.STOPPED


def test_times(stock: Stock, found_again: dict[str, JobStatus]) -> None:
    """Each job has ended when it has."""
    assert {job: status.ended_at for job, status in found_again.items()} == {
        job: copy.status.ended_at for job, copy in stock.jobs.items()
    }


def test_machine_restarted(place: Place, start_daemon: StartDaemon) -> None:
    """What ran when the machine was restarted is lost, and says so."""
    daemon = start_daemon()
    job = run_waiting(daemon).id
    kill_daemon(daemon)
    boot = place.state / "boot"
    assert boot.read_text() == Path("/proc/sys/kernel/random/boot_id").read_text()
    boot.write_text(f"{uuid.uuid4()}\n")

    daemon = start_daemon()

    status = ask(daemon, lambda client: client.job(job).status())
    assert status.state is JobState.LOST
    assert status.lost == "the machine was restarted before it ended"
    assert status.exit_code is None
    assert ask(daemon, lambda client: read(client, job)) == b"up\n"
    assert processes_of(job) == set()
    assert left_of([job]) == []
    assert boot.read_text() == Path("/proc/sys/kernel/random/boot_id").read_text()


def test_pid_of_another(place: Place, start_daemon: StartDaemon) -> None:
    """Nobody is killed because a job once had its pid."""
    daemon = start_daemon()
    job = run_waiting(daemon).id
    kill_daemon(daemon)
    end_orphans(place)
    launch = place.state / "jobs" / job / "launch"
    record = json.loads(launch.read_text())

    with subprocess.Popen(["sleep", "300"]) as innocent:
        try:
            launch.write_text(json.dumps({**record, "pid": innocent.pid}))
            # The database knows the pid as well.
            gone(place.state / "jobs.sqlite")

            daemon = start_daemon()

            status = ask(daemon, lambda client: client.job(job).status())
            ask(daemon, lambda client: client.job(job).kill())
            assert (status.state, status.pid) == (JobState.LOST, innocent.pid)
            assert status.exit_code is None
            assert innocent.poll() is None
        finally:
            innocent.kill()
