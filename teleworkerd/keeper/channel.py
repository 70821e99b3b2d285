"""One end of the socket pair between server and keeper."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from typing import Final, Self, cast

from teleworkerd.protocol.codec import Registry, decode, encode
from teleworkerd.protocol.errors import RemoteProtocolError
from teleworkerd.protocol.framing import FrameDecoder
from teleworkerd.protocol.messages import Message


log = logging.getLogger(__name__)

_READ: Final = 64 << 10  # bytes


class Channel(asyncio.Protocol):
    """Sends messages, and hands on those that come in, in order.

    *received* is called with each message, *writable* when the peer has caught
    up after `is_congested` was true, *closed* once, at the end, whoever ended
    it. What is sent is never dropped: the sender looks at `is_congested` and
    holds back what can wait, or waits for `drained`. With *only_while_read* nothing is
    taken in from a peer that does not take what it is sent. What the peer had sent
    before its end is handed on all the same, on asyncio's own loop.
    """

    def __init__(
        self,
        incoming: Registry,
        *,
        received: Callable[[Message], None],
        closed: Callable[[], None],
        writable: Callable[[], None] = lambda: None,
        only_while_read: bool = False,
    ) -> None:
        self.is_congested = False
        self._only_while_read = only_while_read
        self._drained = asyncio.Event()
        self._drained.set()
        self._incoming = incoming
        self._received = received
        self._closed = closed
        self._writable = writable
        self._decoder = FrameDecoder()
        self._transport: asyncio.Transport | None = None

    async def open(self, sock: socket.socket) -> Self:
        """Take over *sock*, one end of a pair, on the running loop."""
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, sock=sock)
        return self

    def send(self, message: Message) -> None:
        """Send *message*; after the end it goes nowhere."""
        # The loop knows of an end before it tells us, and logs what is sent then.
        if self._transport is None or self._transport.is_closing():
            return

        try:
            self._transport.writelines(encode(message))
        except MemoryError:
            self._break_off()

    async def drained(self) -> None:
        """Wait until the peer has caught up, or is gone."""
        await self._drained.wait()

    def close(self) -> None:
        """Write what waits, then end."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport; called by the loop."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Cut *data* into messages; called by the loop."""
        try:
            self._decoder.feed(data)

            while (frame := self._decoder.next_frame()) is not None:
                self._received(decode(frame, self._incoming))
        except RemoteProtocolError as error:
            log.error("the channel between server and keeper is broken: %s", error)
            cast("asyncio.Transport", self._transport).abort()
        except MemoryError:
            self._break_off()

    def _break_off(self) -> None:
        """End it at once: another server is told anew of all that one may miss."""
        log.error("the channel between server and keeper ends: no memory is left")

        if self._transport is not None:
            self._transport.abort()

    def pause_writing(self) -> None:
        """Note that the peer is slow; called by the loop."""
        self.is_congested = True
        self._drained.clear()

        if self._only_while_read and self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Note that the peer has caught up; called by the loop."""
        self.is_congested = False
        self._drained.set()

        if self._only_while_read and self._transport is not None:
            self._transport.resume_reading()

        self._writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end; called by the loop."""
        log.debug("the channel is closed: %s", exc)

        if exc is not None:
            self._hear_last_words()

        self._transport = None
        self._drained.set()
        self._closed()

    def _hear_last_words(self) -> None:
        """Take in what has come and was not read.

        The loop gives up reading when a write fails, as it does once the peer was
        killed; but what that had ordered, it has been thanked for.
        """
        sock = cast("asyncio.Transport", self._transport).get_extra_info("socket")

        with contextlib.suppress(OSError):
            while data := os.read(sock.fileno(), _READ):
                self.data_received(data)
