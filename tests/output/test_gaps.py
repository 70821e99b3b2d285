"""What was dropped, against a simple set of offsets; and the file that says so."""

import itertools
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teleworkerd.output.gaps import RECORD, Gaps, pack_gap, read_gaps
from teleworkerd.protocol.types import Gap, Stream


MOST = 40
RANGES = st.lists(
    st.tuples(st.integers(0, MOST), st.integers(1, 12)).map(
        lambda pair: (pair[0], pair[0] + pair[1])
    ),
    max_size=12,
)


def gaps_of(*ranges: tuple[int, int]) -> Gaps:
    """Return these gaps of stdout."""
    gaps = Gaps(Stream.STDOUT)

    for offset, stop in ranges:
        gaps.add(offset, stop)

    return gaps


def offsets(ranges: Iterable[tuple[int, int]]) -> set[int]:
    """Return all offsets in the *ranges*."""
    return set(itertools.chain.from_iterable(itertools.starmap(range, ranges)))


def all_of(gaps: Gaps) -> list[tuple[int, int]]:
    """Return the gaps one by one, as a reader finds them."""
    found = []
    offset = 0

    while gap := gaps.find(offset):
        found.append((gap.offset, gap.stop))
        offset = gap.stop

    return found


@given(ranges=RANGES, end=st.integers(0, MOST + 20), start=st.integers(0, MOST + 20))
def test_gaps_are_a_set(ranges: list[tuple[int, int]], start: int, end: int) -> None:
    """In whatever order gaps are told, and told again, they are the same set."""
    gaps = gaps_of(*ranges)
    missing = offsets(ranges)
    found = all_of(gaps)

    assert missing == offsets(found)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(found))
    assert set(range(start, end)) - missing == offsets(gaps.kept(start, end))
    assert gaps.before(end) == len([each for each in missing if each < end])


@pytest.mark.parametrize(
    ("offset", "found"),
    [(0, (5, 8)), (5, (5, 8)), (7, (5, 8)), (8, (10, 11)), (10, (10, 11)), (11, None)],
)
def test_find(offset: int, found: tuple[int, int] | None) -> None:
    """An offset finds the gap that it is in, or the next one."""
    gap = gaps_of((5, 8), (10, 11)).find(offset)

    assert (gap and (gap.offset, gap.stop)) == found


def test_gap_that_grows() -> None:
    """A gap that is told piece by piece is one, and counts each byte once."""
    gaps = gaps_of((10, 20), (20, 30), (10, 40), (25, 35))

    assert all_of(gaps) == [(10, 40)]
    assert [gaps.before(end) for end in (0, 10, 15, 40, 99)] == [0, 0, 5, 30, 30]


def test_record_is_as_documented() -> None:
    """A record has 24 bytes, little-endian, as the module says."""
    assert RECORD.size == 24
    assert pack_gap(Gap(Stream.STDERR, 1, 258)).hex() == (
        "010000000000000002010000000000000100000000000000"
    )


@settings(max_examples=30)
@given(
    gaps=st.lists(
        st.builds(
            lambda stream, offset, size: Gap(stream, offset, offset + size),
            st.sampled_from(Stream),
            st.integers(0, 1 << 62),
            st.integers(1, 1 << 62),
        ),
        max_size=5,
    ),
    torn=st.binary(max_size=RECORD.size - 1),
)
def test_file_survives(
    tmp_path_factory: pytest.TempPathFactory, gaps: list[Gap], torn: bytes
) -> None:
    """What was packed is read, and half a record at the end is not."""
    path = tmp_path_factory.getbasetemp() / "gaps"
    path.write_bytes(b"".join(map(pack_gap, gaps)) + torn)

    assert list(read_gaps(path)) == gaps


@pytest.mark.parametrize(
    "record",
    [
        bytes(RECORD.size),
        RECORD.pack(5, 5, 0),
        RECORD.pack(6, 5, 1),
        RECORD.pack(5, 6, 2),
    ],
    ids=["zeros", "empty", "backwards", "no stream"],
)
def test_nonsense_is_passed_over(tmp_path: Path, record: bytes) -> None:
    """A record that a crash left as nonsense hides none of the others."""
    good = Gap(Stream.STDOUT, 1, 2)
    path = tmp_path / "gaps"
    path.write_bytes(record + pack_gap(good))

    assert list(read_gaps(path)) == [good]


def test_no_file(tmp_path: Path) -> None:
    """Without a file nothing was dropped, as far as anybody knows."""
    assert list(read_gaps(tmp_path / "gaps")) == []
    assert list(read_gaps(tmp_path)) == []
