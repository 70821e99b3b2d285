"""The server's end of a channel, with the test in the keeper's place."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from teleworkerd.config import Config
from teleworkerd.executors.keeper_link import KeeperLink
from teleworkerd.keeper.messages import KeptJob, KeptJobs, Welcome
from teleworkerd.settings import DaemonConfig
from tests.executors.keeper import Peer
from tests.fakes import DEADLINE, LAUNCHED


@pytest_asyncio.fixture
async def sockets() -> AsyncIterator[tuple[socket.socket, socket.socket]]:
    """A socket pair; its ends are closed by who takes them."""
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest_asyncio.fixture
async def peer(
    sockets: tuple[socket.socket, socket.socket],
) -> AsyncIterator[Peer]:
    """The keeper's end, connected."""
    peer = Peer()
    await peer.channel.open(sockets[1])
    yield peer
    peer.channel.close()


@pytest.fixture
def welcome(tmp_path: Path) -> Welcome:
    """What the keeper says first: one job runs already."""
    config = Config(DaemonConfig(state_dir=str(tmp_path)))
    config.jobs_dir.mkdir()
    return Welcome(
        keeper_started_at=1,
        restarts=0,
        config=config,
        cgroups="none",
        limits={},
        jobs=(KeptJob("kept", LAUNCHED, 10, 20),),
    )


@pytest_asyncio.fixture
async def link(
    sockets: tuple[socket.socket, socket.socket], peer: Peer, welcome: Welcome
) -> AsyncIterator[KeeperLink]:
    """The server's end, welcomed."""
    link = KeeperLink()
    kept = KeptJob("other", LAUNCHED, 1, 2)
    peer.say(KeptJobs((kept, replace(kept, job="stopping", stopping=True))), welcome)
    assert await link.welcome(sockets[0]) == welcome
    yield link
    link.close()
    # Both ends say so before the sockets are closed under them.
    await asyncio.wait_for(link.over.wait(), DEADLINE)
