"""Both streams in one order: the same for every reader, every time."""

import asyncio
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teleworkerd.protocol.types import Gap, Piece, Stream
from tests.fakes import DEADLINE, open_descriptors
from tests.output.readers import Reader, pieces_of, time_of_each_byte
from tests.output.streams import Job
from tests.output.written import Written


STREAMS = tuple(Stream)


class Unit(NamedTuple):
    """One byte of a stream, or one that is missing."""

    stream: Stream
    offset: int
    byte: int | None


def units_of(pieces: list[Piece]) -> list[Unit]:
    """Return what is in *pieces*, byte by byte."""
    return [
        Unit(
            piece.stream,
            offset,
            None if isinstance(piece, Gap) else piece.data[offset - piece.offset],
        )
        for piece in pieces
        for offset in range(piece.offset, piece.stop)
    ]


def order_of(written: Written) -> list[Unit]:
    """Return all bytes in the order in which everybody is to get them."""
    units: dict[Stream, list[Unit]] = {stream: [] for stream in Stream}

    for stream, what in written.order:
        for byte in what if isinstance(what, bytes) else [None] * what:
            units[stream].append(Unit(stream, len(units[stream]), byte))

    ends = [[record.end(stream) for stream in Stream] for record in written.records]
    taken = [0, 0]
    found = []

    # What no record has comes last.
    for ends_now in [*ends, list(written.sizes)]:
        for number, stream in enumerate(Stream):
            found += units[stream][taken[number] : ends_now[number]]
            taken[number] = max(taken[number], ends_now[number])

    return found


def times_of(written: Written) -> dict[tuple[Stream, int], int]:
    """Return when each byte that was kept came, where that is known."""
    found: dict[tuple[Stream, int], int] = {}

    for record in written.records:
        for stream in Stream:
            for offset in range(record.end(stream)):
                found.setdefault((stream, offset), record.time)

    missing = {
        (gap.stream, offset)
        for gap in written.gaps
        for offset in range(gap.offset, gap.stop)
    }
    return {place: time for place, time in found.items() if place not in missing}


class Case(NamedTuple):
    """A reader, where it begins, and where it ends if that is known."""

    reader: Reader
    starts: dict[Stream, int]
    stops: dict[Stream, int] | None

    def wants(self, unit: Unit) -> bool:
        """Whether the reader is to get this byte."""
        stop = None if self.stops is None else self.stops[unit.stream]
        return self.starts[unit.stream] <= unit.offset and (
            stop is None or unit.offset < stop
        )


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(1, 12), st.sampled_from(STREAMS)),
        st.tuples(st.just("write"), st.integers(1, 12), st.sampled_from(STREAMS)),
        st.tuples(st.just("drop"), st.integers(1, 12), st.sampled_from(STREAMS)),
        st.tuples(st.just("record"), st.just(0), st.just(Stream.STDOUT)),
        st.tuples(st.just("tell"), st.just(0), st.just(Stream.STDOUT)),
        st.tuples(st.just("join"), st.integers(0, 60), st.sampled_from(STREAMS)),
        st.tuples(st.just("anywhere"), st.integers(0, 60), st.sampled_from(STREAMS)),
        st.tuples(st.just("toggle"), st.integers(0, 5), st.sampled_from(STREAMS)),
        st.tuples(st.just("turn"), st.integers(1, 5), st.just(Stream.STDOUT)),
    ),
    max_size=40,
)


def join(job: Job, action: str, amount: int, follow: bool, limits: list[int]) -> Case:  # noqa: FBT001
    """Have a reader come in the middle of what is told, or at any two offsets."""
    sizes = {stream: fanout.size for stream, fanout in job.fanouts.items()}
    starts = dict.fromkeys(Stream, 0)

    if action == "anywhere":
        starts = {stream: min(size, amount) for stream, size in sizes.items()}
    else:
        told = [
            unit for unit in order_of(job.written) if unit.offset < sizes[unit.stream]
        ]

        for unit in told[:amount]:
            starts[unit.stream] = unit.offset + 1

    stops = None if follow else sizes
    reading = job.read(*starts.values(), stops=stops and dict(stops))
    return Case(Reader(reading, limits), starts, stops)


async def act(
    job: Job, actions: list[tuple[str, int, Stream]], limits: list[int]
) -> list[Case]:
    """Do *actions* and end the job; return its readers, all at their ends."""
    cases: list[Case] = []
    tasks = []

    for number, (action, amount, stream) in enumerate(actions):
        if action == "write":
            job.written.write(bytes([number]) * amount, stream)
        elif action == "drop":
            job.drop(amount, stream)
        elif action == "record":
            job.written.record()
        elif action == "tell":
            job.tell()
        elif action == "toggle" and cases:
            may_read = cases[amount % len(cases)].reader.may_read
            may_read.set() if stream is Stream.STDOUT else may_read.clear()
        elif action in {"join", "anywhere"}:
            case = join(job, action, amount, stream is Stream.STDOUT, limits)
            case.reader.may_read.set()
            cases.append(case)
            tasks.append(asyncio.create_task(case.reader.run()))
        else:
            for _ in range(amount):
                await asyncio.sleep(0)

    job.end()
    late = join(job, "join", 0, follow=True, limits=limits)
    cases.append(late)
    tasks.append(asyncio.create_task(late.reader.run()))

    for case in cases:
        case.reader.may_read.set()

    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(*tasks)

    return cases


@settings(max_examples=100, deadline=None)
@given(
    actions=ACTIONS,
    limits=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    torn=st.binary(max_size=23),
)
async def test_one_order_for_all(
    actions: list[tuple[str, int, Stream]], limits: list[int], torn: bytes
) -> None:
    """Live, late, resumed, resting: all get the bytes in the order of the index.

    The index is ahead of what is told, or has no records for the last bytes.
    """
    with tempfile.TemporaryDirectory() as directory:
        job = Job(Path(directory))
        job.written.write_index(torn)
        cases = await act(job, actions, limits)
        order, times = order_of(job.written), times_of(job.written)

        for case in cases:
            wanted = [unit for unit in order if case.wants(unit)]
            found = units_of(case.reader.pieces)
            assert found == wanted
            assert time_of_each_byte(case.reader.pieces) == {
                (unit.stream, unit.offset): times[unit.stream, unit.offset]
                for unit in wanted
                if (unit.stream, unit.offset) in times
            }
            case.reader.reading.close()

        job.close()
        assert open_descriptors(job.written.directory.index) == 0


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12
    ),
    recorded=st.integers(0, 12),
)
async def test_resumed_anywhere(sizes: list[tuple[int, int]], recorded: int) -> None:
    """At whatever piece a reader breaks off, another goes on with the same order."""
    with tempfile.TemporaryDirectory() as directory:
        job = Job(Path(directory), chunk=3)

        for number, (stdout, stderr) in enumerate(sizes):
            job.written.write(bytes([number]) * stdout, Stream.STDOUT)
            job.written.write(bytes([number]) * stderr, Stream.STDERR)

            if number < recorded:
                job.written.record()

        job.end()
        wanted = order_of(job.written)
        found: list[Unit] = []
        offsets = dict.fromkeys(Stream, 0)

        while True:
            with job.read(*offsets.values()) as reading:
                if not await reading.ready():
                    break

                piece = reading.take(5)
                assert piece is not None
                found += units_of([piece])
                offsets = dict(reading.offsets)

        assert found == wanted
        job.close()


async def order_read(job: Job, limit: int = 100) -> list[tuple[Stream, int]]:
    """Return the streams of what a new reader gets, with how much of each."""
    with job.read() as reading:
        return [
            (piece.stream, piece.stop - piece.offset)
            for piece in await pieces_of(reading, limit)
        ]


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_record_of_both(job: Job, limit: int) -> None:
    """Where one record covers both streams, stdout comes first, all of it."""
    job.written.write(b"e", Stream.STDERR)
    job.written.write(b"oooo", Stream.STDOUT)
    job.written.write(b"ee", Stream.STDERR)
    job.written.record(7)
    job.end()

    with job.read() as reading:
        pieces = await pieces_of(reading, limit)

    assert b"".join(piece.data for piece in pieces if not isinstance(piece, Gap)) == (
        b"ooooeee"
    )
    assert set(time_of_each_byte(pieces).values()) == {7}


async def test_runs_come_together(job: Job) -> None:
    """Many small moves of one stream are read as one piece, with a time for each."""
    job.written.write(b"a")
    job.written.record(1)
    job.written.write(b"b")
    job.written.record(2)
    job.written.write(b"E", Stream.STDERR)
    job.written.record(3)
    job.end()

    with job.read() as reading:
        pieces = await pieces_of(reading)

    assert [(piece.offset, piece.stop) for piece in pieces] == [(0, 2), (0, 1)]
    assert [piece.times for piece in pieces if not isinstance(piece, Gap)] == [
        (0, 1, 1, 2),
        (0, 3),
    ]


async def test_without_any_index(job: Job) -> None:
    """Where there is no index there is no order: stdout comes before stderr."""
    job.written.write(b"e", Stream.STDERR)
    job.written.write(b"o" * 9)
    job.end()

    assert await order_read(job) == [
        (Stream.STDOUT, 4),
        (Stream.STDOUT, 4),
        (Stream.STDOUT, 1),
        (Stream.STDERR, 1),
    ]


async def test_index_beyond_the_spools(job: Job) -> None:
    """What only the index knows of a job that is over does not keep its readers."""
    job.say(b"abc")
    job.written.write(b"lost", Stream.STDERR)
    job.written.record()
    job.written.write(b"def")
    job.written.record()
    job.fanouts[Stream.STDOUT].grow(6)

    for fanout in job.fanouts.values():
        fanout.end()

    assert await order_read(job) == [(Stream.STDOUT, 3), (Stream.STDOUT, 3)]

    with job.read(stops={Stream.STDOUT: 6, Stream.STDERR: 4}) as reading:
        assert len(units_of(await pieces_of(reading))) == 6
