"""The link to the keeper: its welcome, its news, its end."""

import asyncio
import socket

import pytest

from teleworkerd.config import Config
from teleworkerd.executors import keeper_link
from teleworkerd.executors.keeper_link import KeeperGone, KeeperLink
from teleworkerd.executors.local import LocalExecutor
from teleworkerd.keeper.messages import Ready, Reload, Shutdown, Welcome
from tests.executors.keeper import Peer
from tests.fakes import DEADLINE


async def test_reload(link: KeeperLink, peer: Peer, welcome: Welcome) -> None:
    """A new configuration goes to who wants it."""
    found: asyncio.Queue[Config] = asyncio.Queue()
    link.reloaded = found.put_nowait
    peer.say(Reload(welcome.config))

    assert await asyncio.wait_for(found.get(), DEADLINE) == welcome.config


async def test_reload_that_nobody_wants(link: KeeperLink, peer: Peer) -> None:
    """A new configuration that comes too early is passed over."""
    peer.say(Reload(Config()), Shutdown())
    await asyncio.wait_for(link.over.wait(), DEADLINE)

    assert not link.gone.is_set()


async def test_ready(link: KeeperLink, peer: Peer) -> None:
    """The keeper is told that clients may come."""
    link.ready()

    assert await peer.next() == Ready()


async def test_keeper_that_never_was(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    """A keeper that ends before its welcome is an error at once."""
    sockets[1].close()
    link = KeeperLink()

    with pytest.raises(KeeperGone):
        await asyncio.wait_for(link.welcome(sockets[0]), DEADLINE)


async def test_keeper_that_says_nothing(
    sockets: tuple[socket.socket, socket.socket],
    peer: Peer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A keeper that hangs is given up, in order."""
    monkeypatch.setattr(keeper_link, "WELCOME_TIMEOUT", 0.01)
    link = KeeperLink()

    with pytest.raises(KeeperGone, match="said nothing"):
        await link.welcome(sockets[0])

    link.close()
    assert await peer.next() is None
    await asyncio.wait_for(link.over.wait(), DEADLINE)
    assert caplog.text == ""


async def test_late_welcome(
    sockets: tuple[socket.socket, socket.socket],
    peer: Peer,
    welcome: Welcome,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A welcome that comes too late harms nothing."""
    monkeypatch.setattr(keeper_link, "WELCOME_TIMEOUT", 0.01)
    link = KeeperLink()

    with pytest.raises(KeeperGone):
        await link.welcome(sockets[0])

    peer.say(welcome, Shutdown())
    await asyncio.wait_for(link.over.wait(), DEADLINE)

    assert isinstance(link.executor, LocalExecutor)
    link.close()
    assert await peer.next() is None
