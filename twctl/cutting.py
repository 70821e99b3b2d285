"""Leaves out what comes before and after the wanted part of an output."""

from collections.abc import Mapping
from dataclasses import replace

from teleworkerd.protocol.types import Gap, Piece, Stream


class Cut:
    """Cuts off the first *lines*, or *size* bytes, and what is at *stops* or later.

    Lines and bytes are counted in the order in which the pieces come. *starts* and
    *stops* are offsets, one for each stream; without stops there is no end.
    """

    def __init__(
        self,
        starts: Mapping[Stream, int],
        *,
        lines: int = 0,
        size: int = 0,
        stops: Mapping[Stream, int] | None = None,
    ) -> None:
        self._lines = lines
        self._size = size
        self._stops = stops
        self._open = {s for s, stop in (stops or {}).items() if starts[s] < stop}

    def is_over(self) -> bool:
        """Return whether all that comes now is beyond the stops."""
        return self._stops is not None and not self._open

    def split(self, piece: Piece) -> tuple[Piece | None, Piece | None]:
        """Return what of *piece* comes before the wanted part, and what is in it."""
        within = self._before_stop(piece)

        if within is None or not (self._lines or self._size):
            return None, within

        place = min(self._count(within), within.stop)
        return part(within, within.offset, place), part(within, place, within.stop)

    def _before_stop(self, piece: Piece) -> Piece | None:
        if self._stops is None:
            return piece

        stop = self._stops[piece.stream]

        if piece.stop >= stop:
            self._open.discard(piece.stream)

        return part(piece, piece.offset, min(piece.stop, stop))

    def _count(self, piece: Piece) -> int:
        """Return the offset up to which *piece* is cut off."""
        if self._size:
            cut = min(self._size, piece.stop - piece.offset)
            self._size -= cut
            return piece.offset + cut

        if isinstance(piece, Gap):
            return piece.stop

        if (found := piece.data.count(b"\n")) < self._lines:
            self._lines -= found
            return piece.stop

        place = 0

        while self._lines:
            place = piece.data.index(b"\n", place) + 1
            self._lines -= 1

        return piece.offset + place


def part(piece: Piece, offset: int, stop: int) -> Piece | None:
    """Return *piece* from *offset* up to *stop*; None where that is nothing."""
    if offset >= stop:
        return None

    if (offset, stop) == (piece.offset, piece.stop):
        return piece

    if isinstance(piece, Gap):
        return replace(piece, offset=offset, stop=stop)

    data = piece.data[offset - piece.offset : stop - piece.offset]
    return replace(piece, offset=offset, data=data)
