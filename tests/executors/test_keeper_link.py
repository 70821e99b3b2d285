"""The link to the keeper: its welcome, its news, its end."""

import asyncio
import socket

import pytest

from teleworkerd.config import Config
from teleworkerd.executors import keeper_link
from teleworkerd.executors.keeper_link import KeeperGone, KeeperLink
from teleworkerd.executors.local import LocalExecutor
from teleworkerd.keeper.messages import Leave, Probe, Reload, Shutdown, Welcome
from teleworkerd.keeper.orders import Alive, Ready, Reloaded
from tests.executors.keeper import Peer
from tests.fakes import DEADLINE


async def test_reload(link: KeeperLink, peer: Peer, welcome: Welcome) -> None:
    """A new configuration goes to who uses it, and its answer to the keeper."""
    found: list[Config] = []
    answers = [None, "it is wrong"]

    def use(config: Config) -> str | None:
        found.append(config)
        return answers.pop(0)

    link.reload = use
    peer.say(Reload(welcome.config), Reload(Config()))

    assert await peer.next() == Reloaded()
    assert await peer.next() == Reloaded("it is wrong")
    assert found == [welcome.config, Config()]


async def test_reload_that_nobody_wants(link: KeeperLink, peer: Peer) -> None:
    """A new configuration that comes too early is refused."""
    peer.say(Reload(Config()), Shutdown())

    assert await peer.next() == Reloaded("the server is not ready yet")
    await asyncio.wait_for(link.over.wait(), DEADLINE)
    assert not link.gone.is_set()
    assert not link.is_leaving


async def test_probe(link: KeeperLink, peer: Peer) -> None:
    """A probe is answered with its number."""
    peer.say(Probe(7))

    assert await peer.next() == Alive(7)


async def test_leave(link: KeeperLink, peer: Peer) -> None:
    """A server may have to go without its jobs."""
    peer.say(Leave())
    await asyncio.wait_for(link.over.wait(), DEADLINE)

    assert link.is_leaving
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
