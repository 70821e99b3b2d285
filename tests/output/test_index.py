"""The index: its file, and what is found in it by halving."""

import bisect
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teleworkerd.output.index import RECORD, START, IndexRecord, OutputIndex, Step
from teleworkerd.protocol.types import Stream
from tests.fakes import open_descriptors
from tests.output.reads import Reads


GROWTHS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 4)), max_size=30
)


def records_of(growths: list[tuple[int, int, int]]) -> list[IndexRecord]:
    """Return records that each add so much to time, stdout and stderr."""
    sums = itertools.accumulate(
        growths,
        lambda one, other: (one[0] + other[0], one[1] + other[1], one[2] + other[2]),
    )
    return [IndexRecord(100 + time, *ends) for time, *ends in sums]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that each example writes anew."""
    return tmp_path_factory.mktemp("index") / "index"


def write(path: Path, records: list[IndexRecord], torn: bytes = b"") -> OutputIndex:
    """Write *records*, and half of one; return the index."""
    path.write_bytes(b"".join(record.pack() for record in records) + torn)
    return OutputIndex(path)


def test_record_is_as_documented() -> None:
    """A record has 24 bytes, little-endian: time, end of stdout, end of stderr."""
    record = IndexRecord(1, 2, 259)

    assert RECORD.size == 24
    assert record.pack().hex() == ("010000000000000002000000000000000301000000000000")
    assert [record.end(stream) for stream in Stream] == [2, 259]


@settings(max_examples=30)
@given(growths=GROWTHS, torn=st.binary(max_size=RECORD.size - 1))
def test_file_survives(
    shared: Path, growths: list[tuple[int, int, int]], torn: bytes
) -> None:
    """What was packed is read, and half a record at the end is not."""
    records = records_of(growths)

    with write(shared, records, torn) as index:
        assert list(index) == records == index[:]
        assert index[2:5] == records[2:5]
        assert len(index) == len(records)


@settings(max_examples=80, deadline=None)
@given(growths=GROWTHS, kept=st.integers(0, 31 * 24), length=st.integers(0, 5000))
def test_tail_of_zeros(
    shared: Path, growths: list[tuple[int, int, int]], kept: int, length: int
) -> None:
    """What a power failure leaves of the last records is as if it were not there."""
    records = records_of(growths)
    data = b"".join(record.pack() for record in records)[:kept]
    whole = records[: len(data) // RECORD.size]
    shared.write_bytes(data + bytes(length))

    with OutputIndex(shared) as index:
        found = list(index)

        # Of a torn record as much may be there as makes it like a whole one.
        assert found[: len(whole)] == whole
        assert len(found) == len(index) <= len(whole) + 1
        assert found == index[:] == sorted(found, key=lambda record: record.time)
        assert [record.stdout for record in found] == sorted(r.stdout for r in found)
        assert [record.stderr for record in found] == sorted(r.stderr for r in found)
        assert index.at_time(1 << 63) == (found[-1] if found else START)


def test_zeros_that_are_filled(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that grows is looked at once for each time that it has."""
    with write(shared, [IndexRecord(1, 2, 3)], bytes(48)) as index:
        assert len(index) == 1

        write(shared, [IndexRecord(1, 2, 3), IndexRecord(4, 5, 6)], bytes(48))
        assert index[:] == [IndexRecord(1, 2, 3), IndexRecord(4, 5, 6)]

        reads = Reads(monkeypatch)
        assert {len(index) for _ in range(100)} == {2}
        assert reads.count == 0


@pytest.mark.parametrize("place", [-1, 1, 1 << 40])
def test_no_such_record(shared: Path, place: int) -> None:
    """Where there is no record there is none, not another one."""
    with write(shared, [IndexRecord(1, 2, 3)]) as index, pytest.raises(IndexError):
        index[place]


@settings(max_examples=50)
@given(growths=GROWTHS, moment=st.integers(98, 140))
def test_at_time(
    shared: Path, growths: list[tuple[int, int, int]], moment: int
) -> None:
    """How far the streams were is what the last record before that time says."""
    records = records_of(growths)
    before = [record for record in records if record.time < moment]

    with write(shared, records) as index:
        assert index.at_time(moment) == (before[-1] if before else START)


@pytest.mark.parametrize(
    ("moment", "stdout"), [(0, 0), (10, 0), (11, 1), (20, 1), (21, 3), (1 << 64, 3)]
)
def test_at_the_very_time(shared: Path, moment: int, stdout: int) -> None:
    """What came just then did not come before; of several at once all did, or none."""
    records = [IndexRecord(10, 1, 0), IndexRecord(20, 2, 0), IndexRecord(20, 3, 0)]

    with write(shared, records) as index:
        assert index.at_time(moment).stdout == stdout


@settings(max_examples=80)
@given(growths=GROWTHS, stdout=st.integers(0, 40), stderr=st.integers(0, 40))
def test_steps(
    shared: Path, growths: list[tuple[int, int, int]], stdout: int, stderr: int
) -> None:
    """From any position on, each byte comes once, in the order of the records."""
    ends = {Stream.STDOUT: stdout, Stream.STDERR: stderr}
    wanted = []

    for record in records_of(growths):
        for stream in Stream:
            if record.end(stream) > ends[stream]:
                wanted.append(
                    Step(record.time, stream, ends[stream], record.end(stream))
                )
                ends[stream] = record.end(stream)

    with write(shared, records_of(growths)) as index:
        assert list(index.steps(stdout, stderr)) == wanted


@settings(max_examples=80, deadline=None)
@given(
    growths=GROWTHS,
    stream=st.sampled_from(Stream),
    place=st.tuples(st.integers(0, 60), st.integers(0, 60)),
    most=st.integers(1, 10),
)
def test_times(
    shared: Path,
    growths: list[tuple[int, int, int]],
    stream: Stream,
    place: tuple[int, int],
    most: int,
) -> None:
    """Each run of bytes has the time of its record, also from its middle on."""
    records = records_of(growths)
    ends = [record.end(stream) for record in records]
    wanted: list[tuple[int, int]] = []
    last = -1
    offset, size = place

    for each in range(offset, offset + size):
        number = bisect.bisect_right(ends, each)

        if last != number < len(records):
            wanted.append((each, records[number].time))
            last = number

    with write(shared, records) as index:
        found = index.times(stream, offset, offset + size, most=most)

    told = wanted[most][0] if len(wanted) > most else offset + size
    assert found == (wanted[:most], told)


def test_grows_while_it_is_read(shared: Path) -> None:
    """Records that come later are found; half of one counts for none."""
    first, second = IndexRecord(1, 1, 0), IndexRecord(2, 1, 1)
    index = write(shared, [first], torn=second.pack()[:23])
    steps = index.steps(0, 0)
    found = [next(steps)]
    assert list(index) == [first]

    with shared.open("ab") as file:
        file.write(second.pack()[23:])

    assert [*found, *steps] == [
        Step(1, Stream.STDOUT, 0, 1),
        Step(2, Stream.STDERR, 0, 1),
    ]
    assert list(index) == [first, second]
    index.close()


@pytest.mark.parametrize("make", [lambda _: None, Path.mkdir], ids=["none", "a dir"])
def test_no_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """What cannot be read is as if nothing had been written there."""
    path = tmp_path / "index"
    make(path)

    with OutputIndex(path) as index:
        assert index[:] == []
        assert index.at_time(1 << 60) == START
        assert list(index.steps(0, 0)) == []
        assert index.times(Stream.STDOUT, 0, 9, most=9) == ([], 9)


def test_opened_when_needed(shared: Path) -> None:
    """An index has one descriptor from its first use to its close, and again."""
    with write(shared, [IndexRecord(1, 2, 3)]) as index:
        counts = [open_descriptors(shared)]
        index.at_time(5)
        index.at_time(5)
        counts.append(open_descriptors(shared))
        index.close()
        index.close()
        counts.append(open_descriptors(shared))
        assert index[0].stdout == 2

    assert [*counts, open_descriptors(shared)] == [0, 1, 0, 0]


@pytest.fixture
def large(tmp_path: Path) -> Iterator[OutputIndex]:
    """An index of ten million records, all of one time but for the last few."""
    path = tmp_path / "index"
    count = 10_000_000

    with path.open("wb") as file:
        file.truncate((count - 3) * RECORD.size)
        file.seek(0, os.SEEK_END)
        file.writelines(IndexRecord(n, n, n).pack() for n in (5, 6, 7))

    with OutputIndex(path) as index:
        assert len(index) == count
        yield index


@pytest.mark.parametrize(
    "use",
    [
        lambda index: index.at_time(6) == IndexRecord(5, 5, 5),
        lambda index: index.at_time(0) == START,
        lambda index: index.times(Stream.STDERR, 5, 7, most=9) == ([(5, 6), (6, 7)], 7),
        lambda index: next(index.steps(6, 7)) == Step(7, Stream.STDOUT, 6, 7),
        lambda index: next(index.steps(7, 7), None) is None,
    ],
    ids=["at_time", "before all", "times", "steps", "at the end"],
)
def test_seeks_and_does_not_scan(
    large: OutputIndex,
    monkeypatch: pytest.MonkeyPatch,
    use: Callable[[OutputIndex], bool],
) -> None:
    """In ten million records a place is found by a few short reads."""
    reads = Reads(monkeypatch)

    assert use(large)
    assert reads.count < 100
    assert reads.bytes < 64 << 10


@pytest.mark.parametrize(
    "use",
    [
        lambda index: index.times(Stream.STDERR, 0, 6, most=9) == ([(0, 1), (5, 3)], 6),
        lambda index: index.times(Stream.STDERR, 5, 9, most=9) == ([(5, 3)], 9),
        lambda index: (
            [step for step in index.steps(9, 0) if step is not None]
            == [
                Step(1, Stream.STDERR, 0, 5),
                Step(3, Stream.STDOUT, 9, 10),
                Step(3, Stream.STDERR, 5, 6),
            ]
        ),
    ],
    ids=["times", "times at the end", "steps"],
)
def test_passes_over_what_adds_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    use: Callable[[OutputIndex], bool],
) -> None:
    """What one stream had while the other was silent is not read to be left out."""
    block = IndexRecord(2, 9, 5).pack() * 100_000

    with (tmp_path / "index").open("wb") as file:
        file.write(IndexRecord(1, 0, 5).pack())
        file.writelines(itertools.repeat(block, 10))
        file.write(IndexRecord(3, 10, 6).pack())

    reads = Reads(monkeypatch)

    with OutputIndex(tmp_path / "index") as index:
        assert use(index)

    assert reads.count < 200
    assert reads.bytes < 128 << 10


def test_times_of_a_stream_that_is_seldom_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two records of one stream there may be thousands of the other."""
    records = [IndexRecord(n, n // 5000, n) for n in range(100_000)]
    reads = Reads(monkeypatch)

    with write(tmp_path / "index", records) as index:
        runs, _ = index.times(Stream.STDOUT, 0, 99, most=99)

    assert runs == [(n, 5000 * (n + 1)) for n in range(19)]
    assert reads.bytes < 100_000 * RECORD.size // 50


@pytest.mark.parametrize("together", [1, 2, 3, 20, 200])
def test_times_of_one_chunk_take_few_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    """However far its runs are from each other, some are told, and what is not is."""
    count, far = 200_000, 2000
    records = (
        IndexRecord(n, n // far * together + min(n % far, together), n)
        for n in range(count)
    )
    path = tmp_path / "index"
    path.write_bytes(b"".join(record.pack() for record in records))
    end = count // far * together
    reads = Reads(monkeypatch)

    with OutputIndex(path) as index:
        runs, told = index.times(Stream.STDOUT, 0, end, most=1024)

    assert [offset for offset, _ in runs] == list(range(told))
    assert 30 < told <= end
    assert reads.count < 2000
    assert reads.bytes < 1 << 20
