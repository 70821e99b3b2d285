"""What comes before and after the wanted part."""

from hypothesis import given
from hypothesis import strategies as st

from teleworkerd.protocol.types import Chunk, Gap, Piece, Stream
from tests.twctl.splitting import split
from twctl.cutting import Cut


START = {Stream.STDOUT: 0, Stream.STDERR: 0}
TEXTS = st.lists(st.sampled_from([b"\n", b"a", b"bc\n"])).map(b"".join)


def cut_all(cut: Cut, pieces: list[Piece]) -> tuple[bytes, bytes]:
    """Return what was left out before, and what was kept."""
    both = [cut.split(piece) for piece in pieces]
    before, kept = (
        b"".join(piece.data for piece in side if isinstance(piece, Chunk))
        for side in zip(*both, strict=True)
    )
    return before, kept


@given(TEXTS.filter(bool), st.integers(0, 10), st.data())
def test_first_lines(data: bytes, count: int, choice: st.DataObject) -> None:
    """So many lines are left out, and not a byte more."""
    expected = b"".join(data.splitlines(keepends=True)[:count])

    before, kept = cut_all(Cut(START, lines=count), [*split(data, choice, 0)])

    assert (before, kept) == (expected, data[len(expected) :])


@given(TEXTS.filter(bool), st.integers(0, 10), st.integers(0, 10), st.data())
def test_first_bytes_and_end(
    data: bytes, size: int, stop: int, choice: st.DataObject
) -> None:
    """Bytes are counted, and what is at the stop or later is gone."""
    cut = Cut(START, size=size, stops={Stream.STDOUT: stop, Stream.STDERR: 0})

    before, kept = cut_all(cut, [*split(data, choice, 0)])

    assert (before, kept) == (data[:stop][:size], data[:stop][size:])
    assert cut.is_over() is (len(data) >= stop)


def test_gaps() -> None:
    """A gap counts in bytes, is left out among lines, and ends at the stop."""
    gap = Gap(Stream.STDOUT, 0, 10)
    tail = Gap(Stream.STDOUT, 4, 10)

    assert Cut(START, size=4).split(gap) == (Gap(Stream.STDOUT, 0, 4), tail)
    assert Cut(START, lines=4).split(gap) == (gap, None)
    assert Cut(START).split(gap) == (None, gap)
    cut = Cut(START, stops={Stream.STDOUT: 6, Stream.STDERR: 0})
    assert cut.split(gap) == (None, Gap(Stream.STDOUT, 0, 6))


def test_two_streams() -> None:
    """Each stream has its own stop; what comes is counted over both."""
    cut = Cut(START, size=3, stops={Stream.STDOUT: 2, Stream.STDERR: 4})
    out, err = Chunk(Stream.STDOUT, 0, b"abc"), Chunk(Stream.STDERR, 0, b"defgh")

    assert cut.split(out) == (Chunk(Stream.STDOUT, 0, b"ab"), None)
    assert not cut.is_over()
    before, kept = cut.split(err)
    assert (before, kept) == (
        Chunk(Stream.STDERR, 0, b"d"),
        Chunk(Stream.STDERR, 1, b"efg"),
    )
    assert cut.is_over()
