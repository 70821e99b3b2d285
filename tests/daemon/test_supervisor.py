"""The daemon as a whole: where it listens, and what becomes of its server."""

import os
import re
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.daemon.process import Daemon, copy_of
from tests.e2e.pki import Certificates
from tests.keeper.kept import DEADLINE, Place, eventually, is_alive


def test_server_is_replaced(started: Daemon) -> None:
    """A server that is killed is followed by another, on the same port."""
    address = started.address()
    first = started.server()
    os.kill(first, signal.SIGKILL)
    second = started.next_server(first)
    eventually(lambda: started.log().count("ready; listening") == 2, what="readiness")

    with socket.create_connection(address, timeout=5):
        pass

    assert is_alive(second)
    assert "was killed by SIGKILL; starting another" in started.log()
    assert not is_alive(first)


def test_back_off(place: Place, certs: Certificates, stack: ExitStack) -> None:
    """A server that dies again and again is started less and less often."""
    wanted = certs.directory / "server.pem"
    copy = copy_of(certs, place)
    daemon = Daemon(place, copy)
    stack.callback(daemon.discard)
    daemon.address()
    (copy / wanted.name).unlink()
    start = time.monotonic()
    os.kill(daemon.server(), signal.SIGKILL)
    eventually(lambda: daemon.log().count("starting another") >= 4, what="attempts")

    # 0.1 s before the first, then 0.1, 0.2 and so on: each is waited for.
    assert time.monotonic() - start > 0.1 + 0.1 + 0.2
    assert daemon.process.poll() is None

    (copy / wanted.name).write_bytes(wanted.read_bytes())
    eventually(lambda: daemon.log().count("ready; listening") == 2, what="readiness")


def test_server_that_cannot_start(place: Place, stack: ExitStack) -> None:
    """What keeps the first server from starting ends the daemon with 1."""
    daemon = Daemon(place, place.base)
    stack.callback(daemon.discard)

    assert daemon.end() == 1
    assert re.search(r"cannot serve: .*does not exist", daemon.log(), re.MULTILINE)
    assert not (place.state / "address").exists()
    assert not (place.state / "keeper.pid").exists()


def test_server_that_cannot_be_forked(
    place: Place, certs: Certificates, stack: ExitStack
) -> None:
    """When no new server can be made, jobs go on and it is tried again."""
    change = f"""
import asyncio, errno, os, pathlib
make = asyncio.create_subprocess_exec
async def create(*command, **options):
    if pathlib.Path({str(place.base / "no-room")!r}).exists():
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return await make(*command, **options)
asyncio.create_subprocess_exec = create
"""
    daemon = Daemon(place, certs.directory, change=change)
    stack.callback(daemon.discard)
    daemon.address()
    server = daemon.server()
    (place.base / "no-room").touch()
    os.kill(server, signal.SIGKILL)
    eventually(lambda: "no server can be started" in daemon.log(), what="a failure")
    (place.base / "no-room").unlink()

    assert daemon.next_server(server)
    eventually(lambda: daemon.log().count("ready; listening") == 2, what="readiness")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_end(started: Daemon, number: int) -> None:
    """SIGTERM and SIGINT end it with 0, server and files included."""
    server = started.server()
    started.process.send_signal(number)

    assert started.end() == 0
    assert not is_alive(server)
    assert {path.name for path in started.place.state.iterdir()} >= {"jobs", "lock"}
    assert not list(started.place.state.glob("*.pid"))
    assert not (started.place.state / "address").exists()


def test_end_while_no_server_runs(
    place: Place, certs: Certificates, stack: ExitStack
) -> None:
    """SIGTERM between two servers is not lost, nor is it while one is started."""
    change = "import teleworkerd.daemon.backoff as b; b.FIRST = 60.0"
    daemon = Daemon(place, certs.directory, change=change)
    stack.callback(daemon.discard)
    daemon.address()
    os.kill(daemon.server(), signal.SIGKILL)
    eventually(lambda: "starting another" in daemon.log(), what="the pause")
    start = time.monotonic()
    daemon.process.terminate()

    assert daemon.end() == 0
    assert time.monotonic() - start < 5


def test_end_while_a_server_is_started(
    place: Place, certs: Certificates, stack: ExitStack
) -> None:
    """SIGTERM before the new server is connected reaches it all the same."""
    change = """
import asyncio, os, signal
make = asyncio.create_subprocess_exec
async def create(*command, **options):
    server = await make(*command, **options)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0.2)
    return server
asyncio.create_subprocess_exec = create
"""
    start = time.monotonic()
    daemon = Daemon(place, certs.directory, change=change)
    stack.callback(daemon.discard)

    assert daemon.end() == 0
    assert time.monotonic() - start < 8


def test_end_twice(place: Place, certs: Certificates, stack: ExitStack) -> None:
    """A second SIGTERM does not wait for a server that hangs."""
    daemon = Daemon(place, certs.directory)
    stack.callback(daemon.discard)
    daemon.address()
    server = daemon.server()
    os.kill(server, signal.SIGSTOP)
    daemon.process.terminate()
    eventually(lambda: "ending: jobs have" in daemon.log(), what="the first")
    assert daemon.process.poll() is None
    daemon.process.terminate()

    assert daemon.end() == 0
    assert not is_alive(server)


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_service_manager(
    place: Place, certs: Certificates, stack: ExitStack, kind: str
) -> None:
    """A manager is told, in order, what happens; servers say nothing."""
    name = f"@{place.base}" if kind == "abstract" else str(place.base / "notify")
    manager = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    manager.bind(name.replace("@", "\0", 1))
    manager.settimeout(DEADLINE)
    daemon = Daemon(place, copy_of(certs, place), environment={"NOTIFY_SOCKET": name})
    stack.callback(daemon.discard)
    host, port = daemon.address()
    ready = f"READY=1\nSTATUS=serving on {host}:{port}"
    assert manager.recv(200).decode() == ready

    before = time.monotonic_ns() // 1000
    daemon.process.send_signal(signal.SIGHUP)
    begin, since, _ = manager.recv(200).decode().split("\n")

    assert begin == "RELOADING=1"
    assert since.startswith("MONOTONIC_USEC=")
    assert before < int(since[15:]) < time.monotonic_ns() // 1000
    assert manager.recv(200).decode() == ready

    os.kill(daemon.server(), signal.SIGKILL)
    died = "STATUS=the server was killed by SIGKILL; starting another"
    assert manager.recv(200).decode() == f"{died} in 0.1 s, jobs go on"
    assert manager.recv(200).decode() == f"{died}, jobs go on"
    assert manager.recv(200).decode() == ready

    (daemon.place.base / "certs").rename(daemon.place.base / "gone")
    daemon.process.send_signal(signal.SIGHUP)
    assert manager.recv(200).startswith(b"RELOADING=1\n")
    told = manager.recv(500).decode()
    assert told.startswith(f"{ready}; the configuration stays as it was: ")

    daemon.process.terminate()

    assert manager.recv(200) == b"STOPPING=1\nSTATUS=ending: jobs have 10 s"
    assert daemon.end() == 0


def test_service_managers_watchdog(
    place: Place, certs: Certificates, stack: ExitStack
) -> None:
    """A manager that wants it is told again and again that the keeper lives."""
    manager = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    manager.bind(str(place.base / "notify"))
    manager.settimeout(DEADLINE)
    daemon = Daemon(
        place,
        certs.directory,
        environment={
            "NOTIFY_SOCKET": str(place.base / "notify"),
            "WATCHDOG_USEC": "200000",
        },
    )
    stack.callback(daemon.discard)
    told = [manager.recv(200) for _ in range(8)]
    begin = time.monotonic()
    told += [manager.recv(200) for _ in range(8)]

    assert time.monotonic() - begin > 8 * 0.1 - 0.2
    assert [each for each in told if not each.startswith(b"READY=1\n")] == [
        b"WATCHDOG=1"
    ] * 15


def test_working_directory_is_not_imported_from(
    place: Place, certs: Certificates, stack: ExitStack
) -> None:
    """A root daemon runs nothing that lies about where it was started."""
    trap = place.base / "trap"
    trap.mkdir()
    mark = place.base / "mark"

    for name in ("uvloop.py", "ssl.py", "teleworkerd.py"):
        (trap / name).write_text(f"open({str(mark)!r}, 'w')\n")

    daemon = Daemon(place, certs.directory, cwd=trap)
    stack.callback(daemon.discard)
    daemon.address()

    assert not mark.exists()


def test_keeper_that_is_killed(started: Daemon) -> None:
    """A server whose keeper is killed ends by itself and frees the port."""
    server = started.server()
    started.process.kill()

    eventually(lambda: not is_alive(server), what="the server's end")


def test_small_keeper(started: Daemon) -> None:
    """A fork costs by the size of the process: the keeper has no database or uvloop."""
    maps = Path(f"/proc/{started.process.pid}/maps").read_text()

    assert "uvloop" not in maps
    assert "sqlite" not in maps
