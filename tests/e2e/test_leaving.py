"""`at_shutdown = "leave"`: the jobs go on, their keeper stays, and serves again."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from teleworkerd.daemon.facts import DaemonFacts, DaemonState
from tests.e2e.commandline import Twctl
from tests.e2e.daemon import (
    PROGRAM,
    Daemon,
    Place,
    StartDaemon,
    clean_environment,
    directories,
    try_to_start,
)
from tests.e2e.pki import Certificates, generate
from tests.e2e.processes import Process, wait_until_gone
from tests.e2e.waiting import wait_for


pytestmark = pytest.mark.timeout(90)

LEAVE = "[jobs]\nat_shutdown = 'leave'\n"


def person(daemon: Daemon) -> Twctl:
    """Return alice's command line for a daemon of the test's own."""
    return Twctl(daemon, daemon.certs.of("alice"))


def state_of(daemon: Daemon) -> DaemonState | None:
    """Return what the daemon does."""
    facts = DaemonFacts.read(daemon.place.state)
    return facts.state if facts is not None else None


def leave(daemon: Daemon) -> Process:
    """Tell the daemon to end, and wait until it stays; return its keeper."""
    keeper, server = daemon.keeper, daemon.server
    os.kill(keeper.pid, signal.SIGTERM)
    wait_until_gone({server})
    wait_for(lambda: daemon.log_lines("staying without"), what="staying")
    return keeper


def is_refused(daemon: Daemon) -> bool:
    """Whether nothing listens where the daemon did."""
    host, port = daemon.address.split(":")

    try:
        socket.create_connection((host, int(port))).close()
    except ConnectionRefusedError:
        return True

    return False


def test_keeper_stays_for_its_jobs(start_daemon: StartDaemon) -> None:
    """Without a server the job goes on; with its end the keeper ends, with 0."""
    daemon = start_daemon(config=LEAVE)
    alice = person(daemon)
    gate = daemon.gate()
    job = alice.shell(f"echo up; {gate.wait}; echo down; exit 5")
    alice.until_printed(job, b"up\n")
    leave(daemon)

    assert state_of(daemon) is DaemonState.STAYING
    assert not daemon.address_file.exists()
    assert not (daemon.place.state / "server.pid").exists()
    assert is_refused(daemon)
    assert len(daemon.log_lines("until one job is over")) == 1
    assert daemon.process.poll() is None

    gate.open()

    assert daemon.process.wait(20) == 0
    assert not (daemon.place.state / "daemon").exists()
    again = start_daemon(config=LEAVE)
    alice = person(again)
    assert alice.ended(job)["exit_code"] == 5
    assert alice.output(job) == "up\ndown\n"


def test_nothing_to_stay_for(start_daemon: StartDaemon) -> None:
    """Without a job it ends at once."""
    daemon = start_daemon(config=LEAVE)
    daemon.stop()

    assert not daemon.log_lines("staying")


def test_told_twice(start_daemon: StartDaemon) -> None:
    """The second SIGTERM ends the jobs, at once."""
    daemon = start_daemon(config=LEAVE)
    alice = person(daemon)
    job = alice.shell("trap '' TERM; echo up; while :; do sleep 0.1; done")
    alice.until_printed(job, b"up\n")
    leave(daemon)
    daemon.process.send_signal(signal.SIGTERM)

    assert daemon.process.wait(20) == 0
    alice = person(start_daemon(config=LEAVE))
    assert alice.status(job)["reason"] == "shutdown"


def test_next_daemon_takes_over(
    start_daemon: StartDaemon, place: Place, certs: Certificates
) -> None:
    """A `teleworkerd` that is started meanwhile has the keeper serve again.

    Readers go on by themselves, at the same address, although the port was a free one.
    """
    first = start_daemon(config=LEAVE)
    alice = person(first)
    gate = first.gate()
    job = alice.shell(f"echo up; {gate.wait}; echo down; exit 5")

    with alice.start("tail", "-f", "--exit-code", job) as reader:
        reader.until(b"up\n")
        keeper = leave(first)
        second = start_daemon(config=f"{LEAVE}user = 'daemon'\n")

        assert second.keeper == keeper
        assert second.process.pid != keeper.pid
        assert second.address == first.address
        assert alice.ended(alice.run("true"))["user"] == "daemon"

        gate.open()
        done = reader.finish()

    assert (done.code, done.stdout) == (5, b"up\ndown\n")
    assert "belongs to a running" in try_to_start(*directories(place, certs)).stderr
    second.process.send_signal(signal.SIGTERM)
    assert second.process.wait(20) == 0
    assert first.process.wait(20) == 0


def test_front_passes_signals_on(start_daemon: StartDaemon) -> None:
    """What is sent to the one in front reaches the keeper, which may stay again.

    Then there is nothing more to stand in front of.
    """
    first = start_daemon(config=LEAVE)
    alice = person(first)
    gate = first.gate()
    job = alice.shell(f"echo up; {gate.wait}")
    alice.until_printed(job, b"up\n")
    keeper = leave(first)
    second = start_daemon(config=LEAVE)
    server = second.server
    second.process.send_signal(signal.SIGUSR2)
    second.successor_of(server)
    second.process.send_signal(signal.SIGHUP)
    wait_for(lambda: second.log_lines("new configuration is used"), what="reload")
    second.process.send_signal(signal.SIGTERM)
    assert second.process.wait(20) == 0
    assert state_of(second) is DaemonState.STAYING
    third = start_daemon(config=LEAVE)

    assert third.keeper == keeper
    gate.open()
    assert person(third)("wait", job).code == 0
    third.process.send_signal(signal.SIGTERM)
    assert [each.process.wait(20) for each in (first, third)] == [0, 0]


def test_keeper_that_dies_behind_its_front(
    start_daemon: StartDaemon, place: Place, certs: Certificates
) -> None:
    """The end of a keeper that nobody told to end is 1."""
    first = start_daemon(config=LEAVE)
    alice = person(first)
    job = alice.shell("echo up; exec sleep 1000")
    alice.until_printed(job, b"up\n")
    keeper = leave(first)
    second = start_daemon(config=LEAVE)
    wait_for(lambda: second.log_lines("is serving on"), what="service")
    os.kill(keeper.pid, signal.SIGKILL)

    assert second.process.wait(20) == 1
    assert first.process.wait(20) == -signal.SIGKILL
    assert person(start_daemon(config=LEAVE)).status(job)["state"] == "lost"


def test_keeper_that_ends_before_it_serves(
    place: Place, certs: Certificates, start_daemon: StartDaemon
) -> None:
    """The one in front becomes a daemon itself when the keeper ends before."""
    first = start_daemon(config=LEAVE)
    alice = person(first)
    gate = first.gate()
    job = alice.shell(f"echo up; {gate.wait}")
    alice.until_printed(job, b"up\n")
    keeper = leave(first)
    os.kill(keeper.pid, signal.SIGSTOP)

    with front(place, certs) as second:
        os.kill(keeper.pid, signal.SIGKILL)
        wait_for(first.address_file.exists, what="service", within=20)

        assert first.keeper.pid == second.pid
        second.terminate()
        assert second.wait(20) == 0


def test_end_while_no_server_can_start(
    place: Place, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """The one in front can be ended all the same, and the job goes on."""
    certs = generate(tmp_path / "certs", "alice")
    first = start_daemon(certs=certs, config=LEAVE)
    alice = person(first)
    gate = first.gate()
    job = alice.shell(f"echo up; {gate.wait}; exit 5")
    alice.until_printed(job, b"up\n")
    leave(first)
    certs.directory.joinpath("server.pem").rename(tmp_path / "good")

    with front(place, certs) as second:
        wait_for(lambda: first.log_lines("status 1; starting"), what="a failure")
        second.terminate()
        assert second.wait(20) == 0

    assert state_of(first) is DaemonState.STAYING
    (tmp_path / "good").rename(certs.directory / "server.pem")
    third = start_daemon(certs=certs, config=LEAVE)
    gate.open()

    assert person(third)("wait", job).code == 5
    third.process.send_signal(signal.SIGTERM)
    assert [each.process.wait(20) for each in (first, third)] == [0, 0]


def test_end_before_it_serves(
    place: Place, certs: Certificates, start_daemon: StartDaemon
) -> None:
    """A keeper that has not come to it yet serves first, and is left to its jobs."""
    first = start_daemon(config=LEAVE)
    alice = person(first)
    gate = first.gate()
    job = alice.shell(f"echo up; {gate.wait}; exit 5")
    alice.until_printed(job, b"up\n")
    keeper = leave(first)
    os.kill(keeper.pid, signal.SIGSTOP)

    with front(place, certs) as second:
        second.terminate()
        wait_for(lambda: is_told(place), what="the order")
        assert second.poll() is None
        os.kill(keeper.pid, signal.SIGCONT)
        assert second.wait(20) == 0

    assert state_of(first) is DaemonState.STAYING
    assert first.process.poll() is None
    gate.open()
    assert first.process.wait(20) == 0
    assert person(start_daemon(config=LEAVE)).ended(job)["exit_code"] == 5


def test_end_at_once_before_it_serves(
    place: Place, certs: Certificates, start_daemon: StartDaemon
) -> None:
    """The second SIGTERM does not wait for a keeper: it ends its jobs."""
    first = start_daemon(config=LEAVE)
    alice = person(first)
    job = alice.shell("echo up; exec sleep 1000")
    alice.until_printed(job, b"up\n")
    keeper = leave(first)
    os.kill(keeper.pid, signal.SIGSTOP)

    with front(place, certs) as second:
        second.terminate()
        wait_for(lambda: is_told(place), what="the first order")
        second.terminate()
        wait_for(lambda: "passed on" in front_log(place), what="the second")
        os.kill(keeper.pid, signal.SIGCONT)
        assert second.wait(20) == 0

    assert first.process.wait(20) == 0
    assert person(start_daemon(config=LEAVE)).status(job)["reason"] == "shutdown"


@contextmanager
def front(place: Place, certs: Certificates) -> Iterator[subprocess.Popen[bytes]]:
    """A `teleworkerd` that has asked the keeper of *place* to serve again."""
    with (place.base / "front").open("wb") as file:
        process = subprocess.Popen(
            [*PROGRAM, "--listen", "127.0.0.1:0", *directories(place, certs)],
            stdin=subprocess.DEVNULL,
            stderr=file,
            env=clean_environment(),
        )

    try:
        wait_for(lambda: "asked to serve again" in front_log(place), what="front")
        yield process
    finally:
        process.kill()
        process.wait(20)


def front_log(place: Place) -> str:
    """Return what the one in front has written to its log."""
    return (place.base / "front").read_text()


def is_told(place: Place) -> bool:
    """Whether the one in front knows that it is to end."""
    return "is told to end" in front_log(place)
