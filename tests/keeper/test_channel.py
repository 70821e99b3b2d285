"""The end of the channel, seen by who goes on sending."""

import asyncio
import socket

import pytest

from teleworkerd.execution import Postscript
from teleworkerd.keeper.channel import Channel
from teleworkerd.keeper.messages import FROM_KEEPER, OutputGrown
from teleworkerd.keeper.orders import FROM_SERVER, SealJob, SignalJob, StopJob
from teleworkerd.protocol.codec import encode
from teleworkerd.protocol.messages import Message
from teleworkerd.protocol.types import Reason
from tests.fakes import DEADLINE


@pytest.mark.parametrize("who", ["peer", "we"])
async def test_sending_after_the_end(
    who: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What is sent after either has ended it goes nowhere, and nobody complains."""
    ours, theirs = socket.socketpair()
    ended = asyncio.Event()
    channel = Channel(FROM_KEEPER, received=lambda _: None, closed=ended.set)
    await channel.open(ours)

    with theirs:
        channel.send(SignalJob("one", 15, tree=True))

        if who == "we":
            channel.close()

    # Nobody has been told of the end yet.
    for _ in range(20):
        channel.send(SignalJob("one", 15, tree=True))

    await ended.wait()
    channel.send(SignalJob("one", 15, tree=True))
    assert caplog.records == []


@pytest.mark.parametrize("is_paused", [False, True])
def test_last_words_of_who_is_killed(*, is_paused: bool) -> None:
    """What a server ordered before it died is heard, though news for it fail."""
    # On the keeper's own loop: the other end is that of a server.
    asyncio.run(_hear_last_words(is_paused=is_paused))


async def _hear_last_words(*, is_paused: bool) -> None:
    ours, theirs = socket.socketpair()
    received: list[Message] = []
    closed = asyncio.Event()
    channel = Channel(
        FROM_SERVER,
        received=received.append,
        closed=closed.set,
        only_while_read=is_paused,
    )
    await channel.open(ours)

    if is_paused:
        while not channel.is_congested:
            channel.send(OutputGrown("one", 1, 1))

    orders = [StopJob("one", Reason.KILLED), SealJob("two", Postscript())]
    theirs.sendall(b"".join(piece for order in orders for piece in encode(order)))
    theirs.close()
    # Before the loop has read that: the write fails, and is what ends the connection.
    channel.send(OutputGrown("one", 1, 1))

    async with asyncio.timeout(DEADLINE):
        await closed.wait()

    assert received == orders
