"""Walks over msgpack before anything is made of it, so that bombs stay cheap."""

from typing import Final

from teleworkerd.protocol.errors import RemoteProtocolError
from teleworkerd.protocol.spec import MAX_ARGUMENTS


MAX_DEPTH: Final = 8
MAX_VALUES: Final = 1 << 16  # the largest run has 49,152 strings, and little else

_FIXED_WIDTH: Final = {
    **dict.fromkeys((0xCC, 0xD0), 1),
    **dict.fromkeys((0xCD, 0xD1), 2),
    **dict.fromkeys((0xCA, 0xCE, 0xD2), 4),
    **dict.fromkeys((0xCB, 0xCF, 0xD3), 8),
}
_LENGTH_WIDTH: Final = {
    **dict.fromkeys((0xC4, 0xD9), 1),
    **dict.fromkeys((0xC5, 0xDA, 0xDC, 0xDE), 2),
    **dict.fromkeys((0xC6, 0xDB, 0xDD, 0xDF), 4),
}
_REFUSED: Final = frozenset({0xC1, *range(0xC7, 0xCA), *range(0xD4, 0xD9)})


def _size(first: int) -> int:
    """Return how long the value that begins with *first* is, 0 if that varies."""
    if first in _REFUSED or first in _LENGTH_WIDTH or 0x80 <= first <= 0x9F:
        return 0

    if 0xA0 <= first <= 0xBF:
        return 1 + (first & 0x1F)

    return 1 + _FIXED_WIDTH.get(first, 0)


_SIZES: Final = bytes(map(_size, range(256)))


def check_shape(frame: bytes | memoryview) -> None:
    """Check that *frame* is one msgpack value of a bounded shape.

    Raises `RemoteProtocolError` for a value that is cut short or followed by
    more bytes, for extensions, for more than `MAX_VALUES` values (a map's keys
    count), for a map or array of more than `MAX_ARGUMENTS` entries, and for
    maps and arrays nested deeper than `MAX_DEPTH`.
    """
    position, end = 0, len(frame)
    waiting = [1]  # for how many values, in each map or array that is open

    for _ in range(MAX_VALUES):
        if position >= end:
            break

        waiting[-1] -= 1
        size = _SIZES[frame[position]]

        if size:
            position += size
        else:
            position = _enter(frame, position, waiting)

        while waiting[-1] == 0:
            waiting.pop()

            if not waiting:
                _check_end(position, end)
                return

    raise _bad("cut short" if position >= end else f"more than {MAX_VALUES} values")


def _enter(frame: bytes | memoryview, position: int, waiting: list[int]) -> int:
    """Pass a string's bytes or a container's head; return where the next begins."""
    first = frame[position]

    if first in _REFUSED:
        raise _bad(f"type byte 0x{first:02x} is not allowed")

    start = position + 1
    stop = start + _LENGTH_WIDTH.get(first, 0)
    length = int.from_bytes(frame[start:stop]) if stop > start else first & 0x0F

    if not (first < 0xA0 or first >= 0xDC):
        return stop + length

    if len(waiting) > MAX_DEPTH:
        raise _bad(f"nested deeper than {MAX_DEPTH}")

    if length > MAX_ARGUMENTS:
        raise _bad(f"{length} entries in one map or array")

    is_map = first < 0x90 or first >= 0xDE
    waiting.append(2 * length if is_map else length)
    return stop


def _check_end(position: int, end: int) -> None:
    if position > end:
        raise _bad("cut short")

    if position < end:
        raise _bad(f"{end - position} bytes after the message")


def _bad(what: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"a frame that is not a message: {what}")
