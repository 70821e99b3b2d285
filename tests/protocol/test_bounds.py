"""Each bound of protocol.md is the last that passes; what is beyond it is cheap."""

import gc
import time
import tracemalloc
from collections.abc import Callable
from typing import Final

import msgpack
import pytest

from teleworkerd.protocol.codec import decode, encode, unpack
from teleworkerd.protocol.connection import (
    FROM_CLIENT,
    ClientConnection,
    Connection,
    ConnectionState,
    ServerConnection,
)
from teleworkerd.protocol.errors import RemoteProtocolError
from teleworkerd.protocol.framing import (
    LENGTH,
    MAX_FRAME,
    MAX_FRAME_BEFORE_HELLO,
    FrameDecoder,
)
from teleworkerd.protocol.messages import ClientHello, InfoRequest, Message, Ping
from teleworkerd.protocol.responses import ServerHello
from teleworkerd.protocol.shape import MAX_DEPTH, MAX_VALUES
from teleworkerd.protocol.spec import MAX_ARGUMENTS
from tests.protocol.pair import failure, greeted


LITTLE: Final = 1 << 20  # bytes that a frame may cost that is refused
PIECE: Final = 64 << 10  # bytes that are read from a socket at once

PING: Final = b"\x82\xa4type\xa4ping\xa1x"  # and the value of x

BOMBS: Final = {
    "2^20 empty arrays": PING + b"\xdd\x00\x10\x00\x00" + b"\x90" * (1 << 20),
    "2^20 empty maps": PING + b"\xdd\x00\x10\x00\x00" + b"\x80" * (1 << 20),
    "2^20 empty arrays, divided": (
        PING + b"\x98" + (b"\xdc\x40\x00" + b"\x90" * MAX_ARGUMENTS) * 8
    ),
    "a long array of none": PING + b"\xdd\xff\xff\xff\xff",
    "a long map of none": PING + b"\xdf\xff\xff\xff\xff",
    "a long text of none": PING + b"\xdb\xff\xff\xff\xff",
    "a long binary of none": PING + b"\xc6\xff\xff\xff\xff",
    "a long extension of none": PING + b"\xc9\xff\xff\xff\xff\x01",
    "long arrays within each other": PING + b"\xdc\x40\x00" * 1000,
    "depth 1024": PING + b"\x91" * 1024 + b"\xc0",
    "depth 1024 in maps": PING + b"\x81\xa1x" * 1024 + b"\xc0",
    "depth 2^21": b"\x91" * MAX_FRAME,
    "as type": b"\x81\xa4type" + b"\x91" * 1024 + b"\xc0",
    "as key": b"\x81" * 1024,
    "a timestamp": PING + b"\xd6\xff\x00\x00\x00\x00",
    "a long timestamp": PING + b"\xc7\xff\xff" + bytes(255),
    "an extension": PING + b"\xd4\x01\x00",
    "a key twice": b"\x84\xa4type\xa4ping\xa1x\xc0\xa1x\xc0\xa1y\xc0",
    "a key twice, within": PING + b"\x82\xa1x\xc0\xa1x\xc0",
    "a number as key": b"\x82\xa4type\xa4ping\x01\xc0",
    "a nil as key": b"\x82\xa4type\xa4ping\xc0\xc0",
    "an array as key": b"\x82\xa4type\xa4ping\x90\xc0",
    "a map as key, within": PING + b"\x81\x80\xc0",
    "no UTF-8": PING + b"\xa2\xc3\x28",
    "half a surrogate pair": PING + b"\xa3\xed\xa0\x80",
    "bytes after it": PING + b"\xc0\xc0",
    "a byte that is never used": PING + b"\xc1",
    "a number as type": b"\x81\xa4type\x01",
    "a long binary as type": b"\x81\xa4type\xc6\x00\x08\x00\x00" + bytes(1 << 19),
    "NaN as number": msgpack.packb(
        {"type": "stop", "id": 1, "job": "j", "grace": float("nan")}
    ),
}


def costs(work: Callable[[], object]) -> int:
    """Return how many bytes Python had more at the worst moment of *work*."""
    gc.collect()
    tracemalloc.start()

    try:
        before, _ = tracemalloc.get_traced_memory()
        work()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    return peak - before


def takes(frame: bytes) -> float:
    """Return the least processor time of some attempts to decode *frame*."""

    def once() -> float:
        begin = time.process_time()
        refusal(frame)
        return time.process_time() - begin

    return min(once() for _ in range(5))


def refusal(frame: bytes) -> RemoteProtocolError | None:
    """Return the error for *frame*, or None."""
    try:
        decode(frame, FROM_CLIENT)
    except RemoteProtocolError as error:
        return error

    return None


def padded(message: Message, size: int) -> bytes:
    """Return a frame of *message* of *size* bytes: a field fills it up."""
    (frame,) = encode(message)
    value = unpack(frame[LENGTH.size :])
    rest = size - len(msgpack.packb({**value, "x": bytes(size)})) + size
    body: bytes = msgpack.packb({**value, "x": bytes(rest)})
    assert len(body) == size
    return LENGTH.pack(size) + body


def greeting(side: str) -> tuple[Connection, Message]:
    """Return a connection that has heard nothing, and the hello that it waits for."""
    if side == "server":
        return ServerConnection(name="n", server="s"), ClientHello(1)

    return ClientConnection(agent="c"), ServerHello((1,), "s", "n")


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_cost_little_memory(name: str) -> None:
    """A frame that breaks a rule is refused before much is made of it."""
    refusal(BOMBS[name])  # what is made once, and kept
    found: list[RemoteProtocolError | None] = []
    cost = costs(lambda: found.append(refusal(BOMBS[name])))

    assert isinstance(found[0], RemoteProtocolError)
    assert cost < LITTLE


@pytest.mark.slow
def test_bombs_cost_little_time() -> None:
    """No frame that is refused takes longer than the largest that is not."""
    sizes = [MAX_ARGUMENTS] * 3 + [MAX_ARGUMENTS - 9]
    arrays = (b"\xdc" + size.to_bytes(2) + b"\x90" * size for size in sizes)
    harmless = PING + b"\x94" + b"".join(arrays)
    assert refusal(harmless) is None

    slowest = max(map(takes, BOMBS.values()))

    assert slowest < 2 * takes(harmless)


def test_refusals_are_short() -> None:
    """Whatever a frame holds, what is said about it fits a line or two."""
    assert max(len(str(refusal(bomb))) for bomb in BOMBS.values()) < 200


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize("size", [MAX_FRAME_BEFORE_HELLO, MAX_FRAME_BEFORE_HELLO + 1])
def test_the_first_frame_is_bounded(side: str, size: int) -> None:
    """A hello may have 16 KiB to the byte."""
    receiver, hello = greeting(side)
    error = failure(receiver, padded(hello, size))

    assert (error is None) is (size == MAX_FRAME_BEFORE_HELLO)


@pytest.mark.parametrize("size", [MAX_FRAME, MAX_FRAME + 1])
def test_later_frames_are_bounded(size: int) -> None:
    """Once the hellos are exchanged, a message may have 2 MiB to the byte."""
    _, server = greeted()
    error = failure(server, padded(InfoRequest(1), size))

    assert (error is None) is (size == MAX_FRAME)


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize("size", [0, MAX_FRAME_BEFORE_HELLO + 1, (1 << 32) - 1])
def test_a_bad_length_costs_nothing(side: str, size: int) -> None:
    """A length that cannot be is refused when its four bytes are there."""
    receiver, _ = greeting(side)
    cost = costs(lambda: failure(receiver, LENGTH.pack(size)))

    assert receiver.state is ConnectionState.CLOSED
    assert cost < LITTLE


def test_a_frame_costs_no_more_than_itself() -> None:
    """While the longest frame arrives, no more memory is held than it needs."""
    decoder = FrameDecoder()
    piece = bytes(PIECE)

    def arrive() -> None:
        decoder.feed(LENGTH.pack(MAX_FRAME))

        for _ in range(MAX_FRAME // PIECE):
            assert decoder.next_frame() is None
            decoder.feed(piece)

        assert len(decoder.next_frame() or b"") == MAX_FRAME

    # An eighth more is what a bytearray takes when it grows.
    assert costs(arrive) < MAX_FRAME * 9 // 8 + 3 * PIECE


@pytest.mark.parametrize(
    ("value", "more"),
    [
        ([None] * MAX_ARGUMENTS, [None] * (MAX_ARGUMENTS + 1)),
        (
            {str(number): None for number in range(MAX_ARGUMENTS)},
            {str(number): None for number in range(MAX_ARGUMENTS + 1)},
        ),
        ("x" * 65_536, "x" * 65_537),
        ("ü" * 32_768, "ü" * 32_768 + "x"),
        ([[[[[[[]]]]]]], [[[[[[[[]]]]]]]]),
        (
            [[None] * MAX_ARGUMENTS] * 3 + [[None] * (MAX_VALUES // 4 - 9)],
            [[None] * MAX_ARGUMENTS] * 3 + [[None] * (MAX_VALUES // 4 - 8)],
        ),
    ],
    ids=["array", "map", "text", "text-in-bytes", "depth", "values"],
)
def test_what_is_ignored_is_bounded(value: object, more: object) -> None:
    """The bounds hold in fields that nobody reads, to the last one."""
    assert decode(msgpack.packb({"type": "ping", "x": value}), FROM_CLIENT) == Ping()
    assert refusal(msgpack.packb({"type": "ping", "x": more}))


def test_depth_counts_the_message() -> None:
    """The message itself is the first of eight levels."""
    deep = PING + b"\x91" * (MAX_DEPTH - 2) + b"\x90"

    assert MAX_DEPTH == 8
    assert refusal(deep) is None
    assert refusal(PING + b"\x91" * (MAX_DEPTH - 1) + b"\x90")
