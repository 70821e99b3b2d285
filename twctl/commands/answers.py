"""What a terminal answers to output that it is shown again.

A program asks its terminal where the cursor is, or what it can do, by what it writes
there. A terminal that is shown this later answers as well, and these answers would
reach the job as keys. Multiplexers keep a screen of their own and ask nothing again;
we take the answers out of what is typed.
"""

import asyncio
import re
from typing import Final

from teleworkerd.protocol.types import Chunk, Piece
from twctl.commands.writing import Writer
from twctl.cutting import part


PATIENCE: Final = 3.0  # seconds; a terminal far away has to draw it all before
_ASK: Final = b"\x1b[5n"  # whether it is well: all terminals answer that …
_WELL: Final = b"\x1b[0n"  # … so, and in turn

# Reports, which differ from keys, and strings. Ctrl-F3 may look like the first.
_ANSWER: Final = re.compile(
    rb"\x1b\[(?:[=>?][0-?]*[ -/]*[@-~]|[0-9;:]*(?:[Rcntx]|\$y))"
    rb"|\x1b[P\]_][^\x07\x1b]*(?:\x07|\x1b\\)"
)
_BEGUN: Final = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|[P\]_][^\x07\x1b]*\x1b?)?\Z")


class Answers:
    """Takes answers out of what is typed, from `expect` to that to the last question.

    What may begin one is held back until it is known whether it does.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_expecting = False
        self._ends_at: float | None = None
        self._held = b""

    @property
    def is_holding(self) -> bool:
        """Whether something is held back: then call `release` after a while."""
        return bool(self._held)

    def expect(self) -> None:
        """Take them out from now on."""
        self._is_expecting = True

    def last_question(self) -> bytes:
        """Return what has the terminal answer once more, and then no more."""
        if not self._is_expecting or self._ends_at is not None:
            return b""

        self._ends_at = self._loop.time() + PATIENCE
        return _ASK

    def release(self) -> bytes:
        """Return what was held back: it is no answer."""
        held, self._held = self._held, b""
        return held

    def strip(self, data: bytes) -> bytes:
        """Return what of *data* are keys."""
        data = self.release() + data

        if self._ends_at is not None and self._loop.time() >= self._ends_at:
            self._is_expecting = False

        if not self._is_expecting:
            return data

        if self._ends_at is not None and _WELL in data:
            self._is_expecting = False
            answers, _, keys = data.partition(_WELL)
            return _ANSWER.sub(b"", answers) + keys

        keys = _ANSWER.sub(b"", data)

        if begun := _BEGUN.search(keys):
            self._held = begun[0]

        return keys.removesuffix(self._held)


class Again:
    """Writes as *writer* does what a terminal is shown; up to *end* that is again."""

    def __init__(self, writer: Writer, answers: Answers, *, end: int) -> None:
        self._writer = writer
        self._answers = answers
        self._end = end

    async def write(self, piece: Piece) -> None:
        place = min(max(piece.offset, self._end), piece.stop)

        if again := part(piece, piece.offset, place):
            if isinstance(again, Chunk) and b"\x1b" in again.data:
                self._answers.expect()

            await self._writer.write(again)

            if place == self._end and (ask := self._answers.last_question()):
                await self._writer.write(Chunk(piece.stream, place, ask))

        if new := part(piece, place, piece.stop):
            await self._writer.write(new)

    def pass_over(self, piece: Piece) -> None:
        self._writer.pass_over(piece)
