"""The end of the channel, seen by who goes on sending."""

import asyncio
import socket

import pytest

from teleworkerd.keeper.channel import Channel
from teleworkerd.keeper.messages import FROM_KEEPER, SignalJob


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
