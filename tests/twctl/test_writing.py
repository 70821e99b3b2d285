"""JSON lines."""

import base64
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from teleworkerd.protocol.status import StreamStatus
from teleworkerd.protocol.types import Chunk, Gap, Stream
from tests.twctl.fake_output import make_status
from tests.twctl.splitting import split
from twctl.commands.writing import JsonLines
from twctl.sink import Sink


TIME = 1_767_323_045_123_456_789
MOMENT = "2026-01-02T03:04:05.123456789Z"


class Output:
    """A file that JSON lines are written to."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.writer = JsonLines(Sink(fd))

    def read(self) -> list[Any]:
        """Return the objects since the last call."""
        size = os.lseek(self._fd, 0, os.SEEK_END)
        text = os.pread(self._fd, size, 0)
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
async def output() -> AsyncIterator[Output]:
    """A file in memory."""
    fd = os.memfd_create("output")
    yield Output(fd)
    os.close(fd)


def chunk(data: bytes, offset: int = 0, *times: int) -> Chunk:
    """Return a chunk of stdout."""
    return Chunk(Stream.STDOUT, offset, data, times)


def bytes_of(fields: dict[str, str]) -> bytes:
    """Return what an object holds."""
    if "text" in fields:
        return fields["text"].encode()

    return base64.b64decode(fields["base64"])


async def test_text_and_times(output: Output) -> None:
    """What came at one time is one object."""
    await output.writer.write(chunk("ä\n".encode(), 5))
    await output.writer.write(chunk(b"ab\ncd", 8, 8, TIME, 11, TIME + 1))

    assert output.read() == [
        {"schema": 1, "stream": "stdout", "offset": 5, "text": "ä\n"},
        {"schema": 1, "stream": "stdout", "offset": 8, "time": MOMENT, "text": "ab\n"},
        {
            "schema": 1,
            "stream": "stdout",
            "offset": 11,
            "time": MOMENT.replace("89Z", "90Z"),
            "text": "cd",
        },
    ]


async def test_bytes_that_are_no_text(output: Output) -> None:
    """What is not UTF-8 is base64."""
    await output.writer.write(chunk(b"\xff\0a"))

    assert output.read() == [
        {"schema": 1, "stream": "stdout", "offset": 0, "base64": "/wBh"}
    ]


async def test_character_that_is_cut(output: Output) -> None:
    """A character whose bytes come apart stays whole, at its own offset and time."""
    smile = "😀".encode()

    await output.writer.write(chunk(b"a" + smile[:1], 0, 0, TIME))
    await output.writer.write(chunk(smile[1:3], 2, 2, TIME + 1))
    await output.writer.write(Chunk(Stream.STDERR, 0, b"b"))
    await output.writer.write(chunk(smile[3:] + b"c", 4, 4, TIME + 1))

    assert [(o["offset"], o["text"], o.get("time")) for o in output.read()] == [
        (0, "a", MOMENT),
        (0, "b", None),
        (1, "😀c", MOMENT),
    ]


async def test_gap(output: Output) -> None:
    """A gap is told after what came before it."""
    await output.writer.write(chunk(b"a\xc3"))
    await output.writer.write(Gap(Stream.STDOUT, 2, 9))

    assert output.read() == [
        {"schema": 1, "stream": "stdout", "offset": 0, "text": "a"},
        {"schema": 1, "stream": "stdout", "offset": 1, "base64": "ww=="},
        {"schema": 1, "stream": "stdout", "gap": {"from": 2, "to": 9}},
    ]


async def test_end(output: Output) -> None:
    """The end tells of the streams that were read, and of the job."""
    await output.writer.write(chunk(b"\xc3"))
    await output.writer.flush()
    status = make_status(stdout=StreamStatus(0, 1, bytes(32)))
    await output.writer.end(status, {Stream.STDOUT: True})

    assert output.read()[1:] == [
        {
            "schema": 1,
            "end": {
                "stdout": {"bytes": 1, "sha256": "00" * 32, "verified": True},
                "state": "finished",
                "exit_code": 0,
                "reason": None,
            },
        }
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(["aä€😀".encode(), b"\xf0\x9f", b"\x80", b"\n"])),
    st.data(),
)
async def test_nothing_is_lost(
    output: Output, parts: list[bytes], choice: st.DataObject
) -> None:
    """The objects hold all bytes at their offsets, and text stays text."""
    data = b"".join(parts)

    for piece in split(data, choice, TIME):
        await output.writer.write(piece)

    await output.writer.flush()
    objects = output.read()
    offset = 0

    for fields in objects:
        assert fields["offset"] == offset
        offset += len(bytes_of(fields))

    assert b"".join(map(bytes_of, objects)) == data

    if b"\x80" not in parts and b"\xf0\x9f" not in parts:
        assert all("text" in fields for fields in objects)
