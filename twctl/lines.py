"""Where the last lines of a stream begin, found from its end."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from teleworkerd.protocol.types import Chunk, Gap


FIRST_BLOCK: Final = 32 << 10  # bytes; holds ten lines of most logs
LONGEST_BLOCK: Final = 1 << 20

Read = Callable[[int, int], Awaitable[Sequence[Chunk | Gap]]]
"""Reads a range: chunks within it, and gaps, which may reach beyond its end."""


async def last_lines(read: Read, *, first: int, end: int, count: int) -> int:
    """Return the offset where the last *count* lines before *end* begin.

    It is never before *first*. A last line without a newline counts as one.
    """
    if not count:
        return end

    stop, size, missing = end, FIRST_BLOCK, count
    is_last = True

    while stop > first:
        start = max(first, stop - size)
        items = await read(start, stop)

        for item in reversed(items):
            if isinstance(item, Gap):
                continue

            # What ends the last line does not begin another.
            data = item.data[:-1] if is_last else item.data
            is_last = False
            found = data.count(b"\n")

            if found >= missing:
                return item.offset + _newline(data, missing) + 1

            missing -= found

        # A gap may be far longer than what there is to read.
        is_gap = bool(items) and isinstance(items[0], Gap)
        stop = await _begin_of_gap(read, first, start) if is_gap else start
        size = min(size * 4, LONGEST_BLOCK)

    return first


def _newline(data: bytes, count: int) -> int:
    """Return where the newline is that is number *count* from the end."""
    place = len(data)

    for _ in range(count):
        place = data.rindex(b"\n", 0, place)

    return place


async def _begin_of_gap(read: Read, first: int, inside: int) -> int:
    """Return where the gap that *inside* is in begins, or *first*."""

    async def is_in(offset: int) -> bool:
        [item, *_] = await read(offset, offset + 1)
        return isinstance(item, Gap) and item.stop >= inside

    outside, begin, step = first - 1, inside, LONGEST_BLOCK

    while begin - step > first:
        if not await is_in(begin - step):
            outside = begin - step
            break

        begin -= step
        step *= 2

    while begin - outside > 1:
        middle = (begin + outside) // 2

        if await is_in(middle):
            begin = middle
        else:
            outside = middle

    return begin
