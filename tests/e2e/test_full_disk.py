"""A disk without room: what goes on, what waits, and what is refused."""

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.commandline import Twctl, seconds_since
from tests.e2e.daemon import Daemon, Place, StartDaemon
from tests.e2e.waiting import wait_for
from tests.keeper.moving import fill, small_disk


pytestmark = pytest.mark.timeout(90)

DISK: Final = 4 << 20
ROOM: Final = 1 << 20  # for jobs, while there is a ballast
LINES: Final = 200_000


@pytest.fixture
def disk(place: Place) -> Iterator[Path]:
    """A small disk as the state directory."""
    with small_disk(place.state, DISK) as path:
        yield path


def free(disk: Path) -> int:
    """Return how many bytes are free."""
    facts = os.statvfs(disk)
    return facts.f_bavail * facts.f_frsize


def person(daemon: Daemon, name: str = "alice") -> Twctl:
    """Return the command line of a daemon of the test's own."""
    return Twctl(daemon, daemon.certs.of(name))


def wait_until_held_up(twctl: Twctl, job: str) -> None:
    """Wait until *job* has no room for its output."""
    wait_for(
        lambda: twctl.status(job).get("held_up") == "the disk is full",
        what="job that is held up",
    )


def test_full_disk(disk: Path, start_daemon: StartDaemon) -> None:
    """A job that is killed is over at once; what another wrote comes, to the byte."""
    daemon = start_daemon()
    alice, bob = person(daemon), person(daemon, "bob")
    old = bob.run("echo", "old")
    bob.ended(old)
    (disk / "ballast").write_bytes(bytes(free(disk) - ROOM))
    gate = daemon.gate()
    greedy = alice.shell(f"{gate.wait}; exec cat /dev/zero")
    exact = alice.shell(f"{gate.wait}; seq {LINES}; echo end >&2; exit 3")

    with alice.start("tail", "-f", exact) as reader:
        gate.open()
        wait_until_held_up(alice, greedy)
        wait_until_held_up(alice, exact)

        assert bob("info").code == 0
        assert bob.output(old) == "old\n"
        assert alice.status(greedy)["state"] == "running"
        refused = bob("run", "true")
        assert refused.code == 125
        assert "are free on the server's disk, and no job is" in refused.error
        assert len(bob("list", "-o", "json").stdout.splitlines()) == 1

        begin = time.monotonic()
        assert alice("kill", greedy).code == 0
        status = alice.ended(greedy)
        assert seconds_since(begin) < 15
        assert free(disk) < 64 << 10
        assert (status["state"], status["reason"]) == ("stopped", "killed")
        assert status["output"]["stdout"]["dropped"] > 0
        assert (disk / "jobs" / greedy / "exit").exists()
        assert alice.status(exact)["state"] == "running"

        (disk / "ballast").unlink()
        done = reader.finish()

    lines = b"".join(b"%d\n" % number for number in range(1, LINES + 1))
    status = alice.ended(exact)
    stdout = status["output"]["stdout"]

    assert done.stdout == lines
    assert (status["exit_code"], stdout["bytes"]) == (3, len(lines))
    assert stdout["sha256"] == hashlib.sha256(lines).hexdigest()
    assert not stdout.get("dropped")
    assert daemon.log_lines("its digests are not kept") == []
    assert bob.run("true")


def test_server_on_a_full_disk(disk: Path, start_daemon: StartDaemon) -> None:
    """A server that dies is followed by another, which knows of all jobs."""
    daemon = start_daemon()
    alice = person(daemon)
    gate = daemon.gate()
    old = alice.shell("echo old; exit 5")
    alice.ended(old)
    (disk / "ballast").write_bytes(bytes(free(disk) - ROOM))
    job = alice.shell(f"{gate.wait}; exec cat /dev/zero")
    gate.open()
    wait_until_held_up(alice, job)
    fill(disk / "more")
    first = daemon.server
    os.kill(first.pid, signal.SIGKILL)
    daemon.successor_of(first)
    wait_until_held_up(alice, job)

    assert alice.ended(old)["exit_code"] == 5
    alice("stop", job)
    assert alice.ended(job)["reason"] == "killed"

    daemon.stop()
    alice = person(start_daemon())
    assert alice.ended(old)["exit_code"] == 5
    assert alice.ended(job)["reason"] == "killed"


def test_daemon_that_ends_on_a_full_disk(disk: Path, start_daemon: StartDaemon) -> None:
    """Jobs that wait for room are ended with the daemon, and are not lost."""
    daemon = start_daemon()
    alice = person(daemon)
    gate = daemon.gate()
    (disk / "ballast").write_bytes(bytes(free(disk) - ROOM))
    jobs = [alice.shell(f"{gate.wait}; exec cat /dev/zero") for _ in range(3)]
    gate.open()

    for job in jobs:
        wait_until_held_up(alice, job)

    daemon.stop()
    alice = person(start_daemon())

    for job in jobs:
        status = alice.status(job)
        assert (status["state"], status["reason"]) == ("stopped", "shutdown")


def test_broken_database(place: Place, start_daemon: StartDaemon) -> None:
    """A database that is broken costs no job: all are found again."""
    daemon = start_daemon()
    alice = person(daemon)
    job = alice.run("--name", "build", "sh", "-c", "echo out; exit 4")
    before = alice.ended(job)
    daemon.stop()
    (place.state / "jobs.sqlite").write_bytes(b"no database at all" * 100)

    daemon = start_daemon()
    alice = person(daemon)

    assert alice.status("build") == before
    assert alice.output(job) == "out\n"
    (line,) = daemon.log_lines("is broken")
    assert " ERROR " in line
    assert len(list(place.state.glob("jobs.sqlite.corrupt-*"))) == 1
