"""Where the last lines begin."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleworkerd.protocol.types import Chunk, Gap, Stream
from twctl import lines
from twctl.lines import last_lines


TEXTS = st.lists(st.sampled_from([b"\n", b"a", b"\r", b"bcdefg", b"\n\n"])).map(
    b"".join
)


class Output:
    """A stream that can be read in ranges, in pieces of *size* bytes."""

    def __init__(self, data: bytes, *gaps: tuple[int, int], size: int = 3) -> None:
        self.data = data
        self.gaps = [Gap(Stream.STDOUT, *gap) for gap in gaps]
        self.size = size
        self.reads: list[tuple[int, int]] = []

    async def read(self, offset: int, stop: int) -> Sequence[Chunk | Gap]:
        self.reads.append((offset, stop))
        pieces: list[Chunk | Gap] = []

        while offset < stop:
            pieces.append(self._piece(offset, stop))
            offset = pieces[-1].stop

        return pieces

    def _piece(self, offset: int, stop: int) -> Chunk | Gap:
        end = min(stop, offset + self.size)

        for gap in self.gaps:
            if gap.offset <= offset < gap.stop:
                return Gap(Stream.STDOUT, offset, gap.stop)

            if offset < gap.offset:
                end = min(end, gap.offset)

        return Chunk(Stream.STDOUT, offset, self.data[offset:end])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have short texts fill many blocks."""
    monkeypatch.setattr(lines, "FIRST_BLOCK", 2)
    monkeypatch.setattr(lines, "LONGEST_BLOCK", 8)


@pytest.mark.parametrize("first", [0, 3])
@given(data=TEXTS, count=st.integers(0, 12))
async def test_last_lines(data: bytes, count: int, first: int) -> None:
    """They are those that the text has, split at newlines and nothing else."""
    first = min(first, len(data))
    kept = data[first:]
    ends = [place for place in range(1, len(kept) + 1) if kept[:place].endswith(b"\n")]
    starts = [0, *(end for end in ends if end < len(kept))] if kept else []
    expected = first + (starts[-count:] or [0])[0] if count else len(data)

    found = await last_lines(Output(data).read, first=first, end=len(data), count=count)

    assert found == expected


async def test_only_the_end_is_read() -> None:
    """However long the stream, only what holds the lines is read."""
    output = Output(b"line\n" * 100_000)
    end = len(output.data)

    assert await last_lines(output.read, first=0, end=end, count=2) == end - 10
    assert min(output.reads)[0] > end - 20


async def test_lines_before_a_gap() -> None:
    """A gap has no lines, and is passed over however long it is."""
    data = b"a\nb\nc" + bytes(100_000) + b"d\ne\n"
    output = Output(data, (5, 100_005))

    async def find(count: int) -> int:
        return await last_lines(output.read, first=0, end=len(data), count=count)

    assert [await find(count) for count in range(1, 6)] == [100_007, 4, 2, 0, 0]
    assert len(output.reads) < 500


async def test_begin_of_a_gap() -> None:
    """Where a long gap begins is found by halving, whatever comes before it."""
    data = b"line\n" * 1000 + bytes(3000) + b"end\n"
    output = Output(data, (5000, 8000))

    assert await last_lines(output.read, first=0, end=len(data), count=2) == 4995
    assert len(output.reads) < 60


async def test_nothing_but_a_gap() -> None:
    """Where all is missing, the lines begin with it."""
    output = Output(bytes(1000), (0, 1000))

    assert await last_lines(output.read, first=0, end=1000, count=3) == 0
    assert await last_lines(output.read, first=500, end=1000, count=3) == 500
