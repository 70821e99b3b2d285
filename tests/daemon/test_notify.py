"""What a service manager is told."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from teleworkerd.daemon.notify import notify, reloading, status


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """A socket that NOTIFY_SOCKET names."""
    name = f"@{tmp_path}" if request.param == "abstract" else str(tmp_path / "notify")

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0", 1))
        sock.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield sock


def test_told(manager: socket.socket) -> None:
    """A state is one datagram."""
    notify("READY=1")

    assert manager.recv(100) == b"READY=1"


def test_several(manager: socket.socket) -> None:
    """Several states are lines of one datagram; a text is one line."""
    notify("READY=1", status("one\ntwo"))

    assert manager.recv(100) == b"READY=1\nSTATUS=one two"


def test_reload(manager: socket.socket) -> None:
    """A reload begins with the time of the clock that the manager compares with."""
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notify(*reloading())
    first, second = manager.recv(100).decode().split("\n")

    assert first == "RELOADING=1"
    name, _, value = second.partition("=")
    assert name == "MONOTONIC_USEC"
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert before <= int(value) <= now


@pytest.mark.parametrize(
    "address", [None, "", "/no/such/socket", "@no-such", "x" * 200]
)
def test_nobody(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a manager that listens nothing happens."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)

    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)

    notify("READY=1")


def fill(manager: socket.socket) -> None:
    """Have *manager* take nothing more until it reads."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)

        with contextlib.suppress(BlockingIOError):
            while True:
                other.sendto(b"x", manager.getsockname())


def test_manager_that_does_not_read(manager: socket.socket) -> None:
    """A manager whose queue is full does not stop the daemon."""
    fill(manager)
    start = time.monotonic()

    for _ in range(100):
        notify("READY=1")

    assert time.monotonic() - start < 0.5


async def test_manager_that_reads_late(manager: socket.socket) -> None:
    """It is told then, in order; of too much the last."""
    fill(manager)

    for number in range(100):
        notify(f"STATUS={number}")

    notify("READY=1")
    manager.setblocking(False)
    told: list[bytes] = []

    async with asyncio.timeout(5):
        while told[-1:] != [b"READY=1"]:
            with contextlib.suppress(BlockingIOError):
                while True:
                    told.append(manager.recv(100))

            await asyncio.sleep(0.01)

    assert [each for each in told if each != b"x"] == [
        *(f"STATUS={number}".encode() for number in range(69, 100)),
        b"READY=1",
    ]
