"""Cuts bytes into chunks at random, for hypothesis."""

import itertools

from hypothesis import strategies as st

from teleworkerd.protocol.types import Chunk, Stream


def split(
    data: bytes, choice: st.DataObject, time: int, stream: Stream = Stream.STDOUT
) -> list[Chunk]:
    """Return *data* in chunks of several times each, from *time* on."""
    places = st.sets(st.integers(0, len(data)), max_size=5)
    cuts = sorted(choice.draw(places) | {0, len(data)})
    moves = sorted(choice.draw(places) | {0})
    return [
        Chunk(stream, start, data[start:stop], _times(moves, start, stop, time))
        for start, stop in itertools.pairwise(cuts)
    ]


def _times(moves: list[int], start: int, stop: int, time: int) -> tuple[int, ...]:
    within = {start, *(move for move in moves if start < move < stop)}
    return tuple(
        value
        for offset in sorted(within)
        for value in (offset, time + sum(move <= offset for move in moves))
    )
