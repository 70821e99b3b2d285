"""One output request on one session: its chunks, and the credit for them."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Final

from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.messages import OutputChunk, OutputEnd
from teleworkerd.protocol.types import Stream


WINDOW: Final = 2 << 20  # bytes on their way or unread; hides a round trip
REGRANT: Final = WINDOW // 4  # fewer credit messages, and never a dry window


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of output bytes and where it starts in its stream."""

    stream: Stream
    offset: int
    data: bytes

    @property
    def stop(self) -> int:
        """The offset after the last byte."""
        return self.offset + len(self.data)


class Subscription:
    """Holds what has arrived until its one reader takes it.

    At most `WINDOW` bytes wait here. *grant* is called with how many bytes were
    taken. After the last chunk `end` says whether the output is complete.
    """

    def __init__(self, stream: Stream, grant: Callable[[int], None]) -> None:
        self.end: OutputEnd | None = None
        self._stream = stream
        self._grant = grant
        self._taken = 0
        self._arrived: asyncio.Queue[OutputChunk | OutputEnd | TeleworkerError]
        self._arrived = asyncio.Queue()  # bounded by the credit that we give

    def put(self, arrived: OutputChunk | OutputEnd | TeleworkerError) -> None:
        """Take what the session received; an error ends the subscription."""
        self._arrived.put_nowait(arrived)

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """Yield what comes; raises the error that the session put last."""
        while self.end is None:
            match await self._arrived.get():
                case OutputChunk(_, offset, data):
                    self._take(len(data))
                    yield Chunk(self._stream, offset, data)
                case OutputEnd() as end:
                    self.end = end
                case TeleworkerError() as error:
                    raise error

    def _take(self, size: int) -> None:
        self._taken += size

        if self._taken >= REGRANT:
            self._grant(self._taken)
            self._taken = 0
