"""What a service manager is told."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from teleworkerd.keeper import notify as module
from teleworkerd.keeper.notify import notify


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


@pytest.mark.parametrize(
    "address", [None, "", "/no/such/socket", "@no-such", "x" * 200]
)
def test_nobody(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a manager that listens nothing happens."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)

    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)

    notify("READY=1")


def test_manager_that_does_not_read(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manager whose queue is full does not stop the daemon."""
    monkeypatch.setattr(module, "_PATIENCE", 0.1)

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)

        with contextlib.suppress(BlockingIOError):
            while True:
                other.sendto(b"x", manager.getsockname())

    start = time.monotonic()
    notify("READY=1")

    assert time.monotonic() - start < 5
