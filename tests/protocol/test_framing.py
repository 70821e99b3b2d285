"""Frames come out of any division of the bytes that went in."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleworkerd.protocol.errors import RemoteProtocolError
from teleworkerd.protocol.framing import LENGTH, FrameDecoder


def frame(body: bytes) -> bytes:
    """Return *body* with its length before it."""
    return LENGTH.pack(len(body)) + body


def drain(decoder: FrameDecoder) -> list[bytes]:
    """Return all whole frames that *decoder* holds."""
    return [bytes(frame) for frame in iter(decoder.next_frame, None)]


def test_frames_survive_a_cut_at_every_position() -> None:
    """Where the network cuts the bytes in two makes no difference."""
    data = frame(b"a") + frame(b"bcd") + frame(b"e" * 300)

    for cut in range(len(data) + 1):
        decoder = FrameDecoder()
        decoder.feed(data[:cut])
        found = drain(decoder)
        decoder.feed(data[cut:])

        assert found + drain(decoder) == [b"a", b"bcd", b"e" * 300]


@given(
    st.lists(st.binary(min_size=1, max_size=50), max_size=8),
    st.lists(st.integers(0, 400), max_size=8),
)
def test_frames_survive_any_cuts(bodies: list[bytes], cuts: list[int]) -> None:
    """Any number of frames comes out of any number of pieces."""
    data = b"".join(map(frame, bodies))
    edges = [0, *sorted(cuts), len(data)]
    decoder = FrameDecoder()
    found = []

    for start, stop in itertools.pairwise(edges):
        decoder.feed(memoryview(data)[start:stop])
        found += drain(decoder)

    assert bodies == found


def test_thousand_frames_in_one_write() -> None:
    """Many small frames that arrive together all come out."""
    decoder = FrameDecoder()
    decoder.feed(frame(b"x") * 1000)

    assert drain(decoder) == [b"x"] * 1000


def test_a_frame_may_be_as_long_as_the_limit() -> None:
    """The limit itself is allowed."""
    decoder = FrameDecoder(max_size=10)
    decoder.feed(frame(b"0123456789"))

    assert drain(decoder) == [b"0123456789"]


@pytest.mark.parametrize("size", [0, 11, (1 << 32) - 1])
def test_a_bad_length_is_refused_before_its_bytes(size: int) -> None:
    """An empty or too long frame is refused as soon as its length is read."""
    decoder = FrameDecoder(max_size=10)
    decoder.feed(LENGTH.pack(size))

    with pytest.raises(RemoteProtocolError, match=f"a frame of {size} bytes"):
        decoder.next_frame()


def test_the_limit_may_change_between_frames() -> None:
    """A new limit holds for the next frame."""
    decoder = FrameDecoder(max_size=1)
    decoder.feed(frame(b"a") + frame(b"bc"))
    first = bytes(decoder.next_frame() or b"")
    decoder.max_size = 2

    assert [first, *drain(decoder)] == [b"a", b"bc"]


def test_frames_are_read_where_they_came_in() -> None:
    """What was read into the decoder's memory comes out, whatever came before."""
    decoder = FrameDecoder()
    data = b"".join(frame(bytes([number]) * number) for number in range(1, 200))
    found = []
    place = 0

    while place < len(data):
        with decoder.get_buffer(50) as buffer:
            size = min(len(buffer), 50, len(data) - place)
            buffer[:size] = data[place : place + size]

        decoder.received(size)
        place += size
        found += drain(decoder)

    assert found == [bytes([number]) * number for number in range(1, 200)]


def test_memory_is_given_back() -> None:
    """After a long frame, an idle decoder holds no more than a new one."""
    decoder = FrameDecoder()
    decoder.feed(frame(b"x" * (1 << 20)))
    assert len(drain(decoder)) == 1
    decoder.shrink()
    decoder.feed(b"\0")

    with decoder.get_buffer(1) as buffer:
        assert len(buffer) < 1024


def test_part_of_a_frame_outlives_a_shrink() -> None:
    """Memory in which something waits is not given back."""
    decoder = FrameDecoder()
    whole = frame(b"x" * (1 << 20))
    decoder.feed(whole[:-1])
    assert decoder.next_frame() is None
    decoder.shrink()
    decoder.feed(whole[-1:])
    assert drain(decoder) == [b"x" * (1 << 20)]
