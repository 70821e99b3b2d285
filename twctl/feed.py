"""Input for a job on one session: what may be sent, and what has been taken."""

import asyncio
from collections.abc import Callable

from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.responses import InputEnd, InputResponse, InputTaken


class Feed:
    """One input request; *send* and *room* are the session's for it.

    `end` is there when no more is taken, and `offset` then as before how many bytes
    the job has.
    """

    def __init__(
        self, *, send: Callable[[int, bytes, bool], None], room: Callable[[], int]
    ) -> None:
        self.offset = 0
        self.end: InputEnd | None = None
        self._send = send
        self._room = room
        self._is_open = False
        self._error: TeleworkerError | None = None
        self._changed = asyncio.Event()

    @property
    def room(self) -> int:
        """How many bytes may be sent now; 0 before it is open."""
        return self._room() if self._is_open and self.end is None else 0

    def put(
        self, arrived: InputResponse | InputTaken | InputEnd | TeleworkerError
    ) -> None:
        """Take what the session received; an error, or the end, is the last."""
        match arrived:
            case InputResponse(_, _, offset):
                self._is_open = True
                self.offset = offset
            case InputTaken(_, offset):
                self.offset = offset
            case InputEnd():
                self.end = arrived

                if self._is_open:
                    self.offset = arrived.offset
            case TeleworkerError() as error:
                self._error = error

        self._changed.set()

    def send(self, offset: int, data: bytes, *, eof: bool) -> None:
        """Send *data*, for which there is room, and the end if it is that."""
        self._send(offset, data, eof)

    async def opened(self) -> bool:
        """Wait until it is open; return false if it never is.

        Raises the error that the session put last.
        """
        while not self._is_open and self.end is None:
            await self.changed()

        return self._is_open

    async def changed(self) -> None:
        """Wait until something has come, or `wake` was called."""
        if self._error is not None:
            raise self._error

        await self._changed.wait()
        self._changed.clear()

        if self._error is not None:
            raise self._error

    def wake(self) -> None:
        """Have `changed` return: there is something to send."""
        self._changed.set()
