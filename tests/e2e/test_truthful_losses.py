"""Wherever the keeper is killed, and the daemon with it, the next one tells no lie."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from typing import Final

import pytest

import twctl
from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import JobState, Stream
from tests.e2e.daemon import END, Daemon, Place, directories, free_port
from tests.e2e.failpoints import (
    Failpoints,
    ask,
    connect,
    end_orphans,
    kill_daemon,
    kill_server,
    processes_of,
    read,
    run_again,
)
from tests.e2e.groups import left_of
from tests.e2e.pki import Certificates
from tests.e2e.processes import wait_until_gone


pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

LASTING: Final = "exec sleep 300"
ENDING: Final = "exit 7"

FAILED: Final = ("directory-made", "spec-written", "groups-made")
BEGUN: Final = ("launch-begun", "forked", "launch-recorded", "launch-told")
UNDONE: Final = "start-undone"
ENDED: Final = ("main-exited", "tree-ended", "drained", "groups-removed")
TOLD: Final = ("exit-written", "exit-told")
LOST: Final = (*BEGUN, UNDONE, *ENDED)
ALL: Final = (*FAILED, *LOST, *TOLD)


@dataclass(frozen=True, slots=True)
class Sight:
    """What was to be seen of a job at some time."""

    status: JobStatus
    stdout: bytes
    stderr: bytes


@dataclass(slots=True)
class Deaths:
    """What came of the job in whose life a keeper died, by the point at which.

    `sights` are what all later servers said, in order; `again` is the job that the
    same request leads to; `left` are processes and groups after the next start.
    """

    place: Place
    jobs: dict[str, str] = field(default_factory=dict)
    left: dict[str, list[object]] = field(default_factory=dict)
    again: dict[str, str] = field(default_factory=dict)
    sights: dict[str, list[Sight]] = field(
        default_factory=lambda: {point: [] for point in ALL}
    )

    def runs(self, point: str) -> int:
        """Return how often the job ran."""
        path = self.place.shared / point
        return len(path.read_text().splitlines()) if path.exists() else 0


class Series:
    """One daemon after another, in one place and at one address."""

    def __init__(self, certs: Certificates, stack: ExitStack) -> None:
        self.place = Place()
        stack.callback(self.place.remove)
        stack.callback(end_orphans, self.place)
        self.points = Failpoints(self.place)
        self.deaths = Deaths(self.place)
        self._certs = certs
        self._stack = stack
        self._address = f"127.0.0.1:{free_port()}"
        self.daemon = self.start()

    def start(self) -> Daemon:
        """Start the next one."""
        arguments = ["--listen", self._address, *directories(self.place, self._certs)]
        self.daemon = self._stack.enter_context(
            Daemon(
                self.place,
                self._certs,
                config="[jobs]\nlinger = 0.0\n",
                arguments=arguments,
                environment=self.points.environment,
            )
        )
        return self.daemon

    def start_after_death(self) -> None:
        """Wait for the death of this one, and start the next."""
        server = self.daemon.server
        self.daemon.process.wait(END)
        wait_until_gone({server})
        self.start()

    def command(self, point: str) -> tuple[str, ...]:
        """Return a command for a job in whose life the keeper comes by *point*."""
        runs = self.place.shared / point

        if point == UNDONE:
            return ("/no/such/program", str(runs))

        then = LASTING if point in BEGUN else ENDING
        return ("sh", "-c", f"echo ran >> {runs}; echo out; echo err >&2; {then}")

    async def die_everywhere(self) -> None:
        """Have a keeper die at each point."""
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(connect(self.daemon))

            for point in ALL:
                await self._die(client, point)

            await self._look(client)

            for point in ALL:
                self.deaths.again[point] = await self._run(client, point)

    async def look(self) -> None:
        """See what is said of all jobs now."""
        async with connect(self.daemon) as client:
            await self._look(client)

    async def _die(self, client: twctl.Client, point: str) -> None:
        self.points.arm(point)
        running = asyncio.create_task(self._run(client, point))
        await asyncio.to_thread(self.start_after_death)
        assert self.points.armed() == set()
        job = self.deaths.jobs[point] = await running
        # No job of an earlier keeper is left when the next one serves.
        self.deaths.left[point] = [*processes_of(job), *left_of([job])]

    async def _run(self, client: twctl.Client, point: str) -> str:
        return await run_again(client, *self.command(point), request_id=point)

    async def _look(self, client: twctl.Client) -> None:
        known = {status.id for status in await client.list()}

        for point, job in self.deaths.jobs.items():
            if job in known:
                sight = Sight(
                    await client.job(job).status(),
                    await read(client, job),
                    await read(client, job, Stream.STDERR),
                )
                self.deaths.sights[point].append(sight)


@pytest.fixture(scope="module")
def deaths(certs: Certificates) -> Iterator[Deaths]:
    """All of it, looked at four times: by one server after another, and rebuilt."""
    with ExitStack() as stack:
        series = Series(certs, stack)
        asyncio.run(series.die_everywhere())
        kill_server(series.daemon)
        asyncio.run(series.look())
        kill_daemon(series.daemon)
        series.start()
        asyncio.run(series.look())
        kill_daemon(series.daemon)

        for path in series.place.state.glob("jobs.sqlite*"):
            path.unlink()

        series.start()
        asyncio.run(series.look())
        yield series.deaths


@pytest.mark.parametrize("point", ALL)
def test_nothing_is_left(deaths: Deaths, point: str) -> None:
    """What still ran is ended before the next server serves, its groups are gone."""
    assert deaths.left[point] == []


@pytest.mark.parametrize("point", ALL)
def test_end_never_changes(deaths: Deaths, point: str) -> None:
    """Whoever looks, whenever, sees the same."""
    first, *later = deaths.sights[point]

    assert first.status.state.is_final
    # Without a spec it stood in the database alone.
    assert later == [first] * (2 if point == "directory-made" else 3)


@pytest.mark.parametrize("point", ALL)
def test_same_request_same_job(deaths: Deaths, point: str) -> None:
    """The request that made a job makes no other one."""
    assert deaths.again[point] == deaths.jobs[point]
    assert len(set(deaths.jobs.values())) == len(ALL)


@pytest.mark.parametrize("point", FAILED)
def test_before_the_launch(deaths: Deaths, point: str) -> None:
    """A job that is said to have failed never ran."""
    status = deaths.sights[point][0].status

    assert status.state is JobState.FAILED
    assert status.error is not None
    assert "daemon ended before the command was started" in status.error.message
    assert (status.exit_code, status.started_at, status.lost) == (None, None, None)
    assert deaths.runs(point) == 0


@pytest.mark.parametrize("point", LOST)
def test_after_the_launch(deaths: Deaths, point: str) -> None:
    """A job whose end is not known is lost, and says why; it ran at most once."""
    sight = deaths.sights[point][0]

    assert sight.status.state is JobState.LOST
    assert sight.status.lost is not None
    assert "keeper was killed" in sight.status.lost
    assert sight.status.exit_code is sight.status.signal is None
    assert sight.status.ended_at is None
    assert b"out\n".startswith(sight.stdout)
    assert b"err\n".startswith(sight.stderr)
    assert deaths.runs(point) <= 1


@pytest.mark.parametrize("point", ["launch-begun", UNDONE])
def test_never_forked(deaths: Deaths, point: str) -> None:
    """Nobody claims to know that a command ran which did not."""
    status = deaths.sights[point][0].status

    assert status.started_at is status.pid is None
    assert "it may have run" in (status.lost or "")
    assert deaths.runs(point) == 0


@pytest.mark.parametrize("point", [*ENDED, *TOLD])
def test_output_is_kept(deaths: Deaths, point: str) -> None:
    """What the keeper had taken from the pipes can be read."""
    sight = deaths.sights[point][0]

    assert deaths.runs(point) == 1
    assert sight.status.started_at is not None

    if point not in ("main-exited", "tree-ended"):
        assert (sight.stdout, sight.stderr) == (b"out\n", b"err\n")


@pytest.mark.parametrize("point", TOLD)
def test_after_the_end(deaths: Deaths, point: str) -> None:
    """A job whose end is written has that end."""
    status = deaths.sights[point][0].status

    assert (status.state, status.exit_code) == (JobState.FINISHED, 7)
    assert status.durable is True
    assert deaths.runs(point) == 1


def test_output_of_a_killed_tree(certs: Certificates) -> None:
    """A job that has run for long is killed with its tree, and read as it was then."""
    with ExitStack() as stack:
        series = Series(certs, stack)

        async def begin(client: twctl.Client) -> str:
            job = await client.run(["sh", "-c", "sleep 300 & echo out; sleep 300"])

            async for chunk in job.output():
                assert chunk.data == b"out\n"
                break

            return job.id

        job = ask(series.daemon, begin)
        assert len(processes_of(job)) == 3
        kill_daemon(series.daemon)
        assert len(processes_of(job)) == 3

        series.start()

        status = ask(series.daemon, lambda client: client.job(job).status())
        assert status.state is JobState.LOST
        assert status.lost == ("its keeper was killed, or crashed, while it ran")
        assert ask(series.daemon, lambda client: read(client, job)) == b"out\n"
        assert processes_of(job) == set()
        assert left_of([job]) == []
