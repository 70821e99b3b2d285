"""Tells people of output that was dropped."""

import asyncio
from typing import Final

from teleworkerd.protocol.types import Gap, Piece, Stream
from twctl.render import print_notice


PATIENCE: Final = 0.5  # seconds in which a gap may come to its end
WHY: Final = "no more output could be kept"


class GapNotices:
    """Says once what is missing of each gap, when its end is known.

    A gap that goes on while it is read is also told of when it has begun.
    """

    def __init__(self, job: str) -> None:
        self._job = job
        self._gaps: dict[Stream, Gap] = {}
        self._timers: dict[Stream, asyncio.TimerHandle] = {}

    def see(self, piece: Piece) -> None:
        """Take what was read next."""
        gap = self._gaps.get(piece.stream)

        if not isinstance(piece, Gap):
            self._end(piece.stream)
        elif gap is not None and gap.stop == piece.offset:
            self._gaps[piece.stream] = Gap(gap.stream, gap.offset, piece.stop)
        else:
            self._end(piece.stream)
            self._gaps[piece.stream] = piece
            loop = asyncio.get_running_loop()
            self._timers[piece.stream] = loop.call_later(PATIENCE, self._begin, piece)

    def close(self) -> None:
        """Note that no more is read."""
        for stream in Stream:
            self._end(stream)

    def _begin(self, gap: Gap) -> None:
        print_notice(
            f"job {self._job}: {gap.stream} is being dropped from byte {gap.offset} on:"
            f" {WHY}"
        )

    def _end(self, stream: Stream) -> None:
        gap = self._gaps.pop(stream, None)

        if gap is None:
            return

        self._timers.pop(stream).cancel()
        print_notice(
            f"job {self._job}: {gap.stop - gap.offset} bytes of {stream} (from"
            f" {gap.offset} up to {gap.stop}) were dropped: {WHY}"
        )
