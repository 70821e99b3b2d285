"""The outputs of several jobs in one place: whole lines, each with whose it is."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from twctl.sink import Sink


_LONGEST: Final = 1 << 20  # bytes of a line that are kept together
_COLOURS: Final = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)  # of the terminal


class Target(Protocol):
    """Where what is copied goes."""

    async def write(self, data: bytes) -> None:
        """Return when *data* is written, or kept until it is a whole line."""

    async def finish(self) -> None:
        """Write what was kept: nothing more comes."""

    def close(self) -> None:
        """Give back what was opened."""


class Board:
    """The local descriptors, for all jobs together."""

    def __init__(self) -> None:
        self._sinks: dict[int, Sink] = {}
        self._turn = asyncio.Lock()

    def target(self, fd: int, prefix: bytes) -> "Lines":
        """Return where lines with *prefix* are written to *fd*."""
        if fd not in self._sinks:
            self._sinks[fd] = Sink(fd)

        return Lines(self._sinks[fd], self._turn, prefix)

    def close(self) -> None:
        """Give back what was opened."""
        for sink in self._sinks.values():
            sink.close()


class Lines:
    """Writes whole lines with a prefix; those of others come between, never within.

    A line that is longer than a mebibyte is divided. A last one without a newline gets
    one.
    """

    def __init__(self, sink: Sink, turn: asyncio.Lock, prefix: bytes) -> None:
        self._sink = sink
        self._turn = turn
        self._prefix = prefix
        self._begun = b""

    async def write(self, data: bytes) -> None:
        """Write the lines that *data* ends; keep the rest."""
        *whole, self._begun = (self._begun + data).split(b"\n")

        while len(self._begun) > _LONGEST:
            whole.append(self._begun[:_LONGEST])
            self._begun = self._begun[_LONGEST:]

        if whole:
            lines = b"".join(self._prefix + line + b"\n" for line in whole)

            async with self._turn:
                await self._sink.write(lines)

    async def finish(self) -> None:
        """Write a last line that had no end."""
        if self._begun:
            await self.write(b"\n")

    def close(self) -> None:
        """Do nothing: the descriptors are the board's."""


def prefixes(labels: Sequence[str], *, colours: bool) -> Mapping[str, bytes]:
    """Return what stands before the lines of each, equally wide."""
    width = max(map(len, labels))
    found = {}

    for number, label in enumerate(labels):
        text = f"{label:<{width}} | "

        if colours:
            text = f"\x1b[{_COLOURS[number % len(_COLOURS)]}m{text}\x1b[0m"

        found[label] = text.encode(errors="surrogateescape")

    return found
