"""Wherever a server dies, what is said of a job is true, and stays so."""

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

import twctl
from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import JobState, Stream
from tests.e2e.commandline import Completed, Twctl
from tests.e2e.daemon import Daemon, Place
from tests.e2e.failpoints import (
    VARIABLE,
    Failpoints,
    ask,
    end_orphans,
    kill_server,
    processes_of,
    read,
    run_again,
)
from tests.e2e.groups import left_of
from tests.e2e.pki import Certificates
from tests.e2e.proxy import Fault, Proxy
from tests.e2e.waiting import wait_for
from twctl.blocking import connect
from twctl.profile import Profile


pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

CONFIG: Final = "[output]\nsync_interval = 0.2\n"
VARIANCE: Final = 20  # bytes; not all signatures have the same length

START: Final = ("record-saved", "launch-ordered", "launch-heard")
FINISH: Final = ("exit-heard", "sealed", "synced")

OUT: Final = hashlib.sha256(b"out\n").digest()


@dataclass(frozen=True, slots=True)
class Job:
    """A script, and the file that gets a line each time that it runs."""

    runs: Path
    then: str = "exit 7"

    @property
    def command(self) -> tuple[str, ...]:
        script = f"echo ran >> {self.runs}; echo out; echo err >&2; {self.then}"
        return ("sh", "-c", script)

    @property
    def count(self) -> int:
        """How often it ran."""
        return len(self.runs.read_text().splitlines()) if self.runs.exists() else 0


@pytest.fixture(scope="module")
def home() -> Iterator[Place]:
    """The directories of the daemon that the tests of the server share."""
    place = Place()

    with ExitStack() as stack:
        stack.callback(place.remove)
        stack.callback(end_orphans, place)
        yield place


@pytest.fixture(scope="module")
def points(home: Place) -> Failpoints:
    """The points by which that daemon comes."""
    return Failpoints(home)


@pytest.fixture(scope="module")
def daemon(home: Place, points: Failpoints, certs: Certificates) -> Iterator[Daemon]:
    """A daemon whose server dies now and then."""
    with Daemon(home, certs, config=CONFIG, environment=points.environment) as running:
        yield running


def check_end(daemon: Daemon, job_id: str, job: Job) -> JobStatus:
    """Check that *job* ran once and ended with all that it wrote, and nothing else."""

    async def look(client: twctl.Client) -> tuple[JobStatus, bytes, bytes]:
        status = await client.job(job_id).wait()
        stdout = await read(client, job_id)
        return status, stdout, await read(client, job_id, Stream.STDERR)

    status, stdout, stderr = ask(daemon, look)
    assert (status.state, status.exit_code) == (JobState.FINISHED, 7)
    assert (stdout, stderr) == (b"out\n", b"err\n")
    assert status.stdout.sha256 == OUT
    assert status.durable is True
    assert job.count == 1
    return status


def check_later(daemon: Daemon, status: JobStatus) -> None:
    """Check that the next server says the same, and that nothing is left."""
    kill_server(daemon)

    assert ask(daemon, lambda client: client.job(status.id).status()) == status
    assert left_of([status.id]) == []
    assert processes_of(status.id) == set()


@pytest.mark.parametrize("point", START)
def test_server_dies_in_a_start(
    daemon: Daemon, points: Failpoints, alice: Twctl, point: str
) -> None:
    """`run` asks again by itself, and has the ID of a job that ran once."""
    job = Job(daemon.place.shared / point)
    points.arm(point)
    done = alice("run", "--request-id", point, "--", *job.command)

    again = ask(
        daemon, lambda client: run_again(client, *job.command, request_id=point)
    )

    assert point not in points.armed()

    assert done == Completed(0, f"{again}\n".encode(), "")
    check_later(daemon, check_end(daemon, again, job))


def test_library_in_a_start(daemon: Daemon, points: Failpoints) -> None:
    """So does the library, on the connection that it had; each request has one job."""
    jobs = {point: Job(daemon.place.shared / f"library-{point}") for point in START}

    async def run(client: twctl.Client) -> dict[str, str]:
        found = {}

        for point, job in jobs.items():
            points.arm(point)
            found[point] = await run_again(
                client, *job.command, request_id=f"library-{point}"
            )

        return found

    found = ask(daemon, run)

    assert points.armed() == set()

    for point in START:
        check_end(daemon, found[point], jobs[point])


@pytest.mark.parametrize("point", FINISH)
def test_server_dies_at_an_end(
    daemon: Daemon, points: Failpoints, alice: Twctl, point: str
) -> None:
    """Who waits hears of the end once, from whatever server sees to it."""
    job = Job(daemon.place.shared / point)
    points.arm(point)

    done = alice("run", "-f", "--request-id", point, "--", *job.command)

    assert point not in points.armed()
    assert (done.code, done.stdout) == (7, b"out\n")
    again = ask(
        daemon, lambda client: run_again(client, *job.command, request_id=point)
    )
    check_later(daemon, check_end(daemon, again, job))


def test_server_dies_at_every_point(daemon: Daemon, points: Failpoints) -> None:
    """Five servers may die of one job: it ran once, and has one end."""
    job = Job(daemon.place.shared / "every")

    for point in ("record-saved", "launch-heard", *FINISH):
        points.arm(point)

    async def run(client: twctl.Client) -> str:
        found = await client.run(job.command, request_id="every")
        await found.wait()
        return found.id

    found = ask(daemon, run)

    assert points.armed() == set()
    check_later(daemon, check_end(daemon, found, job))


def test_jobs_do_not_see_failpoints(daemon: Daemon, alice: Twctl) -> None:
    """A job's environment does not say where they are."""
    assert VARIABLE not in alice.output(alice.run("env"))


def test_disk_that_fails(daemon: Daemon, points: Failpoints, alice: Twctl) -> None:
    """A job ends all the same; that it is not durable is said once, and for good."""
    gate = daemon.gate()
    job = Job(daemon.place.shared / "eio", then=f"{gate.wait}; exit 7")
    found = alice.run("--", *job.command)
    alice.until_printed(found, b"out\n")
    points.arm("sync", "EIO")
    gate.open()

    status = alice.ended(found)

    assert points.armed() == set()
    assert (status["state"], status["exit_code"]) == ("finished", 7)
    assert status["output"]["stdout"]["sha256"] == OUT.hex()
    assert status["durable"] is False
    assert len(daemon.log_lines(f"ERROR.*{found}.*power failure")) == 1
    kill_server(daemon)
    assert alice.status(found) == status


def test_disk_that_fails_early(
    daemon: Daemon, points: Failpoints, alice: Twctl
) -> None:
    """One that has failed while the job ran is not trusted by the next server."""
    gate = daemon.gate()
    job = Job(daemon.place.shared / "early", then=f"{gate.wait}; exit 7")
    points.arm("sync", "EIO")
    found = alice.run("--", *job.command)
    wait_for(lambda: alice.status(found)["durable"] is False, what="refusal")
    kill_server(daemon)
    gate.open()

    status = alice.ended(found)

    assert (status["state"], status["exit_code"]) == ("finished", 7)
    assert status["durable"] is False


def test_disk_and_server_fail(daemon: Daemon, points: Failpoints, alice: Twctl) -> None:
    """What the disk refused is not forgotten, though its server dies at once."""
    gate = daemon.gate()
    job = Job(daemon.place.shared / "both", then=f"{gate.wait}; exit 7")
    found = alice.run("--", *job.command)
    alice.until_printed(found, b"out\n")
    points.arm("sync", "EIO")
    points.arm("synced")
    gate.open()

    status = alice.ended(found)

    assert points.armed() == set()
    assert status["exit_code"] == 7
    assert status["durable"] is False


def test_hundred_lost_replies(daemon: Daemon, certs: Certificates) -> None:
    """A hundred requests whose reply is cut off make a hundred jobs, not one more."""
    job = Job(daemon.place.shared / "hundred")
    alice = certs.of("alice")

    async def run(between: Proxy) -> list[str]:
        host, port = between.address.split(":")
        profile = Profile(host, int(port), certs.ca, alice.cert, alice.key)

        with connect(profile):
            hello = between.down

        found = []

        for _ in range(100):
            # All that comes first passes, and of the reply some bytes.
            between.faults = [Fault(down=hello + VARIANCE)]

            async with twctl.Client(profile) as client:
                found.append((await client.run(job.command, labels={"k": "v"})).id)

        async with twctl.Client(profile) as client:
            for each in found:
                await client.job(each).wait()

            assert len(await client.list(labels={"k": "v"})) == 100

        return found

    with Proxy(daemon.address) as between:
        found = asyncio.run(run(between))
        accepted = between.accepted

    assert accepted == 202
    assert len(set(found)) == 100
    assert job.count == 100


@pytest.mark.parametrize("point", ["forked", "launch-recorded"])
def test_error_after_the_fork(daemon: Daemon, points: Failpoints, point: str) -> None:
    """A command that was started is not said to have failed to start."""
    job = Job(daemon.place.shared / f"error-{point}")
    points.arm(point, "ENOMEM")
    found = ask(
        daemon, lambda client: run_again(client, *job.command, request_id=point * 2)
    )

    status = ask(daemon, lambda client: client.job(found).wait())

    assert point not in points.armed()
    assert status.state is not JobState.FAILED
