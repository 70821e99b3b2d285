"""What a frame holds, for people: JSON with h'…' for binary, and hex dumps."""

import json
from collections.abc import Iterator
from typing import cast

import msgpack

from teleworkerd.protocol.framing import LENGTH


WIDTH = 16


def notation(value: object) -> str:
    """Return *value*, of msgpack's types, as JSON with binary as h'hex'."""
    if isinstance(value, bytes):
        return f"h'{value.hex()}'"

    if isinstance(value, dict):
        items = [f"{notation(key)}: {notation(item)}" for key, item in value.items()]
        return "{" + ", ".join(items) + "}"

    if isinstance(value, list):
        return "[" + ", ".join(map(notation, value)) + "]"

    return json.dumps(value, ensure_ascii=False)


def dump_frame(frame: bytes) -> Iterator[str]:
    """Yield *frame*, its length included, as annotated lines of hex."""
    head, body = frame[: LENGTH.size], frame[LENGTH.size :]
    yield from _lines(head, f"length {len(body)}", 0)
    yield from _Dump(body).value("", 0)


def _lines(data: bytes, note: str, depth: int) -> Iterator[str]:
    for start in range(0, len(data), WIDTH):
        column = data[start : start + WIDTH].hex(" ").ljust(3 * WIDTH)
        yield f"{column} {'  ' * depth}{note}".rstrip()
        note = ""


class _Dump:
    """Walks over one message; a key and its value share their lines."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._unpacker = msgpack.Unpacker()
        self._unpacker.feed(body)
        self._shown = 0

    def value(self, key: str, depth: int) -> Iterator[str]:
        """Yield the lines of the next value; *key* has been read and not shown."""
        first = self._body[self._unpacker.tell()]

        if 0x80 <= first <= 0x8F or first in (0xDE, 0xDF):
            count = cast("int", self._unpacker.read_map_header())
            yield from self._take(f"{key}map of {count}", depth)

            for _ in range(count):
                name = notation(self._unpacker.unpack())
                yield from self.value(f"{name}: ", depth + 1)
        elif 0x90 <= first <= 0x9F or first in (0xDC, 0xDD):
            count = cast("int", self._unpacker.read_array_header())
            yield from self._take(f"{key}array of {count}", depth)

            for _ in range(count):
                yield from self.value("", depth + 1)
        else:
            value = self._unpacker.unpack()
            shown = repr(value)[1:] if isinstance(value, bytes) else notation(value)

            if isinstance(value, bytes) and len(value) == 32:
                shown = "32 bytes"

            yield from self._take(f"{key}{shown}", depth)

    def _take(self, note: str, depth: int) -> Iterator[str]:
        start, self._shown = self._shown, self._unpacker.tell()
        yield from _lines(self._body[start : self._shown], note, depth)
