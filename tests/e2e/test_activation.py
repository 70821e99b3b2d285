"""Sockets that a service manager made, and hands over with LISTEN_FDS."""

import os
import re
import signal
import subprocess
import sys
from typing import Final

import pytest

from tests.e2e.commandline import Twctl
from tests.e2e.daemon import (
    PROGRAM,
    START,
    Daemon,
    Place,
    StartDaemon,
    clean_environment,
    directories,
)
from tests.e2e.pki import ROOT, Certificates
from tests.e2e.processes import wait_until_gone
from tests.e2e.waiting import wait_for


pytestmark = pytest.mark.timeout(90)

# Becomes a program that has descriptors of these kinds from 3 on, for this pid.
MANAGER: Final = """
import fcntl, os, socket, sys
kinds, pid, *program = sys.argv[1:]

def made(kind):
    if kind == "file":
        return os.open("/dev/null", os.O_RDONLY)
    family = {"tcp6": socket.AF_INET6, "unix": socket.AF_UNIX}
    type = socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM
    sock = socket.socket(family.get(kind, socket.AF_INET), type)
    sock.bind({"tcp6": ("::1", 0), "unix": "\\0" + str(os.getpid())}.get(
        kind, ("127.0.0.1", 0)))
    if kind not in ("udp", "idle"):
        sock.listen()
    return sock.detach()

for number, fd in enumerate([fcntl.fcntl(made(kind), fcntl.F_DUPFD, 100)
                             for kind in kinds.split(",")]):
    os.dup2(fd, 3 + number)
os.environ["LISTEN_PID"] = pid or str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(kinds.split(",")))
os.environ["LISTEN_FDNAMES"] = ":".join(kinds.split(","))
os.closerange(3 + number + 1, 200)
os.execv(program[0], program)
"""


def manager(kinds: str, *, pid: str = "") -> tuple[str, ...]:
    """Return a command that starts a daemon as a service manager does."""
    return sys.executable, "-c", MANAGER, kinds, pid, *PROGRAM


def refusal(kinds: str, place: Place, certs: Certificates) -> str:
    """Start a daemon that must fail; return the one line of its failure."""
    done = subprocess.run(
        [*manager(kinds), *directories(place, certs)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=clean_environment(),
        timeout=START,
    )
    assert done.returncode == 1
    _begin, error = done.stderr.splitlines()
    assert error.startswith("teleworkerd: error: "), done.stderr
    return done.stderr


def test_used(start_daemon: StartDaemon) -> None:
    """Clients are accepted there; neither server nor jobs hear of it."""
    daemon = start_daemon(program=manager("tcp6,tcp"))
    alice = Twctl(daemon, daemon.certs.of("alice"))
    (line,) = daemon.log_lines("ready; listening on")
    first, second = re.findall(r"\S+:\d+(?=,|$)", line.partition("listening on")[2])
    environment = alice.output(alice.run("env"))
    servers = f"/proc/{daemon.server.pid}/environ"

    assert daemon.address == first
    assert first.startswith("[::1]:")
    assert second.startswith("127.0.0.1:")
    assert len(daemon.log_lines("listen = 127.0.0.1:0 is not used")) == 1
    assert "LISTEN_" not in environment
    with open(servers, "rb") as file:  # noqa: PTH123  pathlib asks for its size
        assert b"LISTEN_" not in file.read()

    server = daemon.server
    os.kill(server.pid, signal.SIGKILL)
    daemon.successor_of(server)
    assert alice("info").code == 0


def test_meant_for_another_process(start_daemon: StartDaemon) -> None:
    """With a pid that is not ours the daemon makes its own socket."""
    daemon = start_daemon(program=manager("udp", pid="1"))

    assert not daemon.log_lines("is not used")
    assert Twctl(daemon, daemon.certs.of("alice"))("info").code == 0


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        ("file", "descriptor 3, .* is not a socket"),
        ("tcp,udp", "descriptor 4, .* is not a TCP socket"),
        ("unix", "descriptor 3, .* is not a TCP socket"),
        ("tcp,tcp,idle", "descriptor 5, .* does not listen"),
    ],
)
def test_wrong(place: Place, certs: Certificates, kinds: str, words: str) -> None:
    """What no client could come by is named."""
    assert re.search(words, refusal(kinds, place, certs))


def test_left_to_its_jobs(start_daemon: StartDaemon) -> None:
    """What others have as well stays open while the keeper stays for its jobs."""
    config = "[jobs]\nat_shutdown = 'leave'\n"
    daemon = start_daemon(program=manager("tcp"), config=config)
    alice = Twctl(daemon, daemon.certs.of("alice"))
    gate = daemon.gate()
    job = alice.shell(f"echo up; {gate.wait}; echo down")
    server = daemon.server

    with alice.start("tail", "-f", job) as reader:
        reader.until(b"up\n")
        daemon.process.send_signal(signal.SIGTERM)
        wait_until_gone({server})
        wait_for(lambda: daemon.log_lines("staying without"), what="staying")
        second = start_daemon(config=config)
        gate.open()
        done = reader.finish()

    assert second.address == daemon.address
    assert done.stdout == b"up\ndown\n"
    second.process.send_signal(signal.SIGTERM)
    assert second.process.wait(20) == daemon.process.wait(20) == 0


def test_kept_from_jobs(place: Place, certs: Certificates) -> None:
    """Jobs do not get the descriptors: they are closed at the exec."""
    with Daemon(place, certs, program=manager("tcp")) as daemon:
        alice = Twctl(daemon, certs.of("alice"))
        job = alice.shell("ls -l /proc/self/fd")

        assert "socket:" not in alice.output(job)
