"""Puts before each line when its first byte came."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from teleworkerd.protocol.types import Chunk, Gap
from twctl.render import moment


UNKNOWN: Final = b"- "  # as a column that has no value


class Stamper:
    """Stamps one sequence of chunks, in the order in which they are printed.

    *at_line_start* says whether the first byte is the first of a line: what is
    not gets no stamp. All else is left as it is.
    """

    def __init__(self, *, at_line_start: bool) -> None:
        self._at_line_start = at_line_start

    def stamp(self, chunk: Chunk) -> bytes:
        """Return the bytes of *chunk* with a stamp before each line."""
        pieces: list[bytes] = []

        for start, stop, time in runs(chunk):
            data = chunk.data[start:stop]
            stamp = UNKNOWN if time is None else _stamp(time)

            if self._at_line_start:
                pieces.append(stamp)

            # Of the next line, the first byte may have come at another time.
            pieces += data[:-1].replace(b"\n", b"\n" + stamp), data[-1:]
            self._at_line_start = data.endswith(b"\n")

        return b"".join(pieces)

    def pass_over(self, item: Chunk | Gap) -> None:
        """Note that *item* is not printed; after a gap any byte may be next."""
        self._at_line_start = isinstance(item, Chunk) and item.data.endswith(b"\n")


def runs(chunk: Chunk) -> Iterator[tuple[int, int, int | None]]:
    """Yield start and stop in its data of what came at one time, and that time.

    The time is None where it is not known.
    """
    start, time = 0, None

    for offset, following in zip(chunk.times[::2], chunk.times[1::2], strict=True):
        stop = min(max(start, offset - chunk.offset), len(chunk.data))

        if stop > start:
            yield start, stop, time

        start, time = stop, following

    if start < len(chunk.data):
        yield start, len(chunk.data), time


@lru_cache(maxsize=16)
def _stamp(time: int) -> bytes:
    return f"{moment(time)} ".encode()
