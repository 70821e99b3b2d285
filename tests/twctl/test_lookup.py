"""A name server that does not answer holds nobody up."""

import _thread
import asyncio
import errno
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from teleworkerd.protocol.errors import ConnectionClosed
from tests.e2e.pki import Certificates
from tests.twctl.fake import FakeServer, context_of, profile_of
from twctl import lookup, opening
from twctl.blocking import connect
from twctl.opening import open_session
from twctl.profile import Profile


pytestmark = pytest.mark.timeout(20)


@pytest.fixture
def named(certs: Certificates) -> Profile:
    """A server with a name, where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return replace(profile_of(free.getsockname(), certs), host="worker.invalid")


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """No lookup ends before the test does; signals that are put there come in it."""
    ended = threading.Event()
    threads = []
    signals: list[int] = []

    def getaddrinfo(*_: Any, **__: Any) -> Any:
        threads.append(threading.get_ident())

        for number in signals:
            os.kill(os.getpid(), number)

        ended.wait()
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield signals
    ended.set()
    assert threads
    assert threading.get_ident() not in threads


@pytest.mark.usefixtures("silent")
async def test_deadline(named: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a time of its own, with or without a loop."""
    monkeypatch.setattr(lookup, "CONNECT_TIMEOUT", 0.1)
    monkeypatch.setattr(opening, "CONNECT_TIMEOUT", 0.1)
    said = r"worker\.invalid:\d+: the host name cannot be resolved \(no answer"

    with pytest.raises(ConnectionClosed, match=said):
        await open_session(named, context_of(named))

    with pytest.raises(ConnectionClosed, match=said):
        await asyncio.to_thread(connect, named)


def test_interrupt(named: Profile, silent: list[int]) -> None:
    """Ctrl-C ends it at once."""
    silent.append(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        connect(named)


def test_interrupt_of_a_loop(named: Profile, silent: list[int]) -> None:
    """So it does where there is a loop, which does not wait for the lookup either."""
    silent.append(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(open_session(named, context_of(named)))


@pytest.mark.parametrize("host", ["ä..b", "a..b", "a" * 70, "ä" * 70])
async def test_no_name(named: Profile, host: str) -> None:
    """What cannot be a name is said to be none."""
    odd = replace(named, host=host)

    with pytest.raises(ConnectionClosed, match="the host name cannot be resolved"):
        await open_session(odd, context_of(odd))

    with pytest.raises(ConnectionClosed, match="the host name cannot be resolved"):
        await asyncio.to_thread(connect, odd)


async def test_no_descriptor(named: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the resolver lacks is told at once, in its own words."""

    def getaddrinfo(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    with pytest.raises(ConnectionClosed, match="Too many open files"):
        await open_session(named, context_of(named))

    with pytest.raises(ConnectionClosed, match="Too many open files"):
        await asyncio.to_thread(connect, named)


async def test_no_thread(named: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, that is told, and is no bug."""

    def start_new_thread(*_: Any) -> Any:
        raise RuntimeError("can't start new thread")

    context = context_of(named)
    monkeypatch.setattr(_thread, "start_new_thread", start_new_thread)

    with pytest.raises(ConnectionClosed, match="can't start new thread"):
        await open_session(named, context)

    with pytest.raises(ConnectionClosed, match="can't start new thread"):
        connect(named)


@contextmanager
def full() -> Iterator[tuple[str, int]]:
    """Yield an address that answers nothing, as it has no room for a connection."""
    with ExitStack() as stack:
        listener = stack.enter_context(
            socket.create_server(("127.0.0.1", 0), backlog=0)
        )

        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())

        yield listener.getsockname()


async def test_several_addresses(
    server: FakeServer, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not answer leaves time for the others."""
    kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")

    with full() as silent:
        addresses = [(*kind, silent), (*kind, (profile.host, profile.port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        monkeypatch.setattr(lookup, "CONNECT_TIMEOUT", 1.0)
        session = await open_session(profile, context_of(profile))
        await session.close()
        (await asyncio.to_thread(connect, profile)).__exit__(None, None, None)

    assert server.connections == 2
