"""The daemon as a whole: where it listens, and what becomes of its server."""

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from teleworkerd.config import Address, ConfigError
from teleworkerd.keeper.supervisor import listen
from tests.e2e.pki import Certificates
from tests.keeper.kept import DEADLINE, ROOT, Place, eventually, is_alive


PROGRAM: Final = """
import sys
{change}
from teleworkerd.main import main
sys.exit(main())
"""


class Daemon:
    """`teleworkerd` with *environment* added to a clean one."""

    def __init__(
        self,
        place: Place,
        certs: Path,
        *,
        change: str = "",
        listening: str = "127.0.0.1:0",
        environment: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
    ) -> None:
        self.place = place
        self._log = place.base / "log"

        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-c",
                    PROGRAM.format(change=change),
                    *("--listen", listening, "--state-dir", str(place.state)),
                    *("--certs", str(certs)),
                ],
                stdin=subprocess.DEVNULL,
                stderr=log,
                cwd=cwd,
                env={
                    "PATH": "/usr/bin:/bin",
                    "PYTHONPATH": str(ROOT),
                    **(environment or {}),
                },
            )

    def log(self) -> str:
        """Return what it has written to its log."""
        return self._log.read_text()

    def address(self) -> tuple[str, int]:
        """Wait until it serves; return where."""
        file = self.place.state / "address"

        def is_ready() -> bool:
            assert self.process.poll() is None, self.log()
            return file.exists()

        eventually(is_ready, what="the address")
        host, _, port = file.read_text().strip().rpartition(":")
        return host.strip("[]"), int(port)

    def server(self) -> int:
        """Return the pid of the server."""
        return int((self.place.state / "server.pid").read_text())

    def next_server(self, last: int) -> int:
        """Wait for a server other than *last*; return its pid."""
        eventually(lambda: self.server() != last, what="another server")
        return self.server()

    def end(self) -> int:
        """Wait until it has ended; return its exit status."""
        return self.process.wait(DEADLINE)

    def discard(self) -> None:
        """End it, whatever state it is in."""
        if self.process.poll() is None:
            self.process.terminate()

            try:
                self.process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

        assert "Traceback" not in self.log(), self.log()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is undone after the test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def started(place: Place, certs: Certificates, stack: ExitStack) -> Daemon:
    """A daemon that serves."""
    daemon = Daemon(place, certs.directory)
    stack.callback(daemon.discard)
    daemon.address()
    return daemon


def test_free_port() -> None:
    """Port 0 is a free one."""
    (sock,) = listen(Address("127.0.0.1", 0), 5)

    with sock:
        host, port = sock.getsockname()
        assert host == "127.0.0.1"
        assert port > 0

        with socket.create_connection((host, port)):
            pass


def test_ipv6() -> None:
    """An address of version 6 works like any other."""
    (sock,) = listen(Address("::1", 0), 5)

    with sock:
        assert sock.family is socket.AF_INET6


def test_one_port_for_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with several addresses has the same free port on each."""
    find = socket.getaddrinfo

    def both(_: str, port: int, **options: int) -> list[object]:
        return [*find("127.0.0.1", port, **options), *find("::1", port, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    sockets = listen(Address("localhost", 0), 5)
    ports = [sock.getsockname()[1] for sock in sockets]

    for sock in sockets:
        sock.close()

    assert len(ports) == 2
    assert len(set(ports)) == 1


def test_port_that_is_taken() -> None:
    """A port in use is named, with the flag for another; nothing stays open."""
    before = os.listdir("/proc/self/fd")  # noqa: PTH208  numbers are all it is about

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with pytest.raises(ConfigError, match=rf":{port}: Address already .*--listen"):
            listen(Address("127.0.0.1", port), 5)

    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208  as above


@pytest.mark.parametrize(
    "host", ["no-such-host.invalid", "a..b", "x" * 70, "nul\0", "192.0.2.1", "é" * 70]
)
def test_address_that_is_not_ours(host: str) -> None:
    """A host that cannot be listened on is a sentence, not a traceback."""
    with pytest.raises(ConfigError, match="cannot listen on"):
        listen(Address(host, 0), 5)


def test_family_that_the_kernel_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without IPv6 is told of in the same way."""

    def lacking(*_: object) -> None:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr(socket, "socket", lacking)

    with pytest.raises(ConfigError, match="Address family not supported"):
        listen(Address("::1", 0), 5)


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
    assert "ended with status -9; starting another" in started.log()
    assert not is_alive(first)


def test_back_off(place: Place, certs: Certificates, stack: ExitStack) -> None:
    """A server that dies again and again is started less and less often."""
    wanted = certs.directory / "server.pem"
    copy = place.base / "certs"
    copy.mkdir()

    for file in certs.directory.glob("*.pem"):
        (copy / file.name).write_bytes(file.read_bytes())

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
    assert re.search(
        r"^teleworkerd: error: .*does not exist", daemon.log(), re.MULTILINE
    )
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
    change = "import teleworkerd.keeper.supervisor as s; s._BACKOFF_FIRST = 60.0"
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
    """READY is told when clients may come, STOPPING at the end; servers say nothing."""
    name = f"@{place.base}" if kind == "abstract" else str(place.base / "notify")
    manager = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    manager.bind(name.replace("@", "\0", 1))
    manager.settimeout(DEADLINE)
    daemon = Daemon(place, certs.directory, environment={"NOTIFY_SOCKET": name})
    stack.callback(daemon.discard)
    assert manager.recv(100) == b"READY=1"

    daemon.address()
    daemon.process.terminate()

    assert manager.recv(100) == b"STOPPING=1"
    assert daemon.end() == 0


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
