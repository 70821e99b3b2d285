"""Both streams at once: where a reader ends, waits and is let go."""

import asyncio
import time

import pytest

from teleworkerd.output.index import IndexRecord
from teleworkerd.protocol.errors import JobRemoved
from teleworkerd.protocol.messages import MAX_TIMES
from teleworkerd.protocol.types import Chunk, Gap, Stream
from tests.fakes import DEADLINE, open_descriptors
from tests.output.readers import caught_up, pieces_of, runs_of, take, time_of_each_byte
from tests.output.streams import Job


STDOUT, STDERR = Stream


def alternate(job: Job, count: int = 4) -> None:
    """Let the job write `O` and `E` in turn, two bytes each, all of it told."""
    for number in range(count):
        stream = STDERR if number % 2 else STDOUT
        job.say((b"EE" if number % 2 else b"OO"), stream)


async def test_live(job: Job) -> None:
    """A reader that waits gets what comes as it comes, whichever stream it is of."""
    with job.read() as reading:
        for data, stream in ((b"a", STDOUT), (b"b", STDERR), (b"c", STDOUT)):
            waiting = await caught_up(reading)
            job.say(data, stream, at=9)
            assert await asyncio.wait_for(waiting, DEADLINE)
            offset = reading.offsets[stream]
            assert take(reading) == Chunk(stream, offset, data, (offset, 9))

        waiting = await caught_up(reading)
        job.end()
        assert not await asyncio.wait_for(waiting, DEADLINE)


async def test_index_ahead_of_what_is_told(job: Job) -> None:
    """What the index knows already is waited for, and nothing gets in before it."""
    job.written.write(b"abcd", STDOUT)
    job.written.record()
    job.written.write(b"E", STDERR)
    job.written.record()

    with job.read() as reading:
        waiting = await caught_up(reading)
        job.fanouts[STDERR].grow(1)
        await asyncio.sleep(0)
        assert not waiting.done()
        job.fanouts[STDOUT].grow(3)
        assert await asyncio.wait_for(waiting, DEADLINE)
        job.tell()
        job.end()

        assert await runs_of(reading) == [(STDOUT, b"abcd"), (STDERR, b"E")]


@pytest.mark.parametrize("follow", [True, False])
async def test_stops(job: Job, *, follow: bool) -> None:
    """A reader with stops ends there, whatever the index and the spools have."""
    alternate(job, 6)
    stops = {STDOUT: 3, STDERR: 2}

    with job.read(stops=None if follow else stops) as reading:
        if follow:
            reading.stop_at(stops)

        alternate(job)

        assert await runs_of(reading) == [
            (STDOUT, b"OO"),
            (STDERR, b"EE"),
            (STDOUT, b"O"),
        ]


@pytest.mark.parametrize(
    ("stops", "rest"),
    [
        ((0, 0), []),
        ((2, 0), []),
        ((2, 1), [(STDERR, b"E")]),
        ((3, 1), [(STDERR, b"E"), (STDOUT, b"O")]),
        ((3, 0), [(STDOUT, b"O")]),
        ((99, 99), [(STDERR, b"EE"), (STDOUT, b"OO"), (STDERR, b"EE")]),
    ],
)
async def test_stop_comes_to_a_reader(
    job: Job, stops: tuple[int, int], rest: list[tuple[Stream, bytes]]
) -> None:
    """An end that is set later cuts what the reader was to read next, and after it."""
    alternate(job)

    with job.read() as reading:
        assert await asyncio.wait_for(reading.ready(), DEADLINE)
        assert take(reading).stream is STDOUT
        assert await asyncio.wait_for(reading.ready(), DEADLINE)
        reading.stop_at(dict(zip(Stream, stops, strict=True)))

        if not stops[1]:
            assert reading.take(100) is None

        job.end()
        assert await runs_of(reading) == rest


async def test_stop_wakes_who_waits(job: Job) -> None:
    """A reader that waits for more learns that there will be none."""
    with job.read() as reading:
        waiting = await caught_up(reading)
        reading.stop_at(dict.fromkeys(Stream, 0))

        assert not await asyncio.wait_for(waiting, DEADLINE)


async def test_held_from_the_time_on(job: Job) -> None:
    """After `until` a reader gets nothing until it is told where the end is."""
    alternate(job)

    with job.read() as reading:
        assert await asyncio.wait_for(reading.ready(), DEADLINE)
        reading.until = time.time_ns()
        assert reading.take(100) is None
        waiting = await caught_up(reading)
        job.say(b"more")
        job.end()
        await asyncio.sleep(0)
        assert not waiting.done()
        reading.stop_at({STDOUT: 2, STDERR: 1})

        assert await asyncio.wait_for(waiting, DEADLINE)
        assert await runs_of(reading) == [(STDOUT, b"OO"), (STDERR, b"E")]


async def test_gap_costs_no_limit(job: Job) -> None:
    """However little a reader may take, it gets a gap as one."""
    job.drop(1 << 30, STDERR)
    job.written.record(5)
    job.end()

    with job.read() as reading:
        assert await asyncio.wait_for(reading.ready(), DEADLINE)
        assert take(reading, 1) == Gap(STDERR, 0, 1 << 30)


async def test_gap_between_the_streams(job: Job) -> None:
    """A gap keeps its place in the order, and ends where another stream's turn is."""
    job.say(b"a")
    job.drop(2, STDOUT)
    job.written.record()
    job.say(b"E", STDERR)
    job.drop(3, STDOUT)
    job.written.record()
    job.say(b"b")
    job.end()

    with job.read() as reading:
        assert await runs_of(reading, limit=1) == [
            (STDOUT, b"a"),
            (STDOUT, 2),
            (STDERR, b"E"),
            (STDOUT, 3),
            (STDOUT, b"b"),
        ]


@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_times_are_bounded(job: Job, more: int) -> None:
    """A chunk has no more runs than the protocol allows."""
    count = MAX_TIMES + more
    job.written.write(b"x" * count)
    job.written.records = [IndexRecord(at, at, 0) for at in range(1, count + 1)]
    job.written.write_index()

    for stream in Stream:
        job.histories[stream]._chunk = job.fanouts[stream]._chunk = 1 << 16

    job.end()

    with job.read() as reading:
        pieces = await pieces_of(reading)

    assert len(pieces) == 1 + (more > 0)
    assert time_of_each_byte(pieces) == {
        (STDOUT, offset): offset + 1 for offset in range(count)
    }


async def test_times_only_if_asked_for(job: Job) -> None:
    """The order needs the index in any case, its times are not sent unasked."""
    job.say(b"abc", at=10)
    job.end()

    with job.read(times=False) as reading:
        assert await pieces_of(reading) == [Chunk(STDOUT, 0, b"abc")]


async def test_removed(job: Job) -> None:
    """Readers of what is removed are told, whether they wait or may just read."""
    alternate(job)
    removed = JobRemoved("it was removed")

    with job.read(4, 4) as waits, job.read() as ready:
        waiting = await caught_up(waits)
        assert await asyncio.wait_for(ready.ready(), DEADLINE)

        for fanout in job.fanouts.values():
            fanout.end(removed)

        with pytest.raises(JobRemoved):
            await asyncio.wait_for(waiting, DEADLINE)

        with pytest.raises(JobRemoved):
            ready.take(4)


async def test_unreadable_spool_is_no_end(job: Job) -> None:
    """A spool that cannot be read is an error, and when it can, the reader goes on."""
    alternate(job)
    job.end()
    spool = job.written.directory.spool(STDERR)
    spool.rename(spool.with_name("hidden"))

    with job.read() as reading:
        assert await asyncio.wait_for(reading.ready(), DEADLINE)
        take(reading)
        assert await asyncio.wait_for(reading.ready(), DEADLINE)

        with pytest.raises(FileNotFoundError):
            reading.take(10)

        spool.with_name("hidden").rename(spool)
        assert await runs_of(reading) == [
            (STDERR, b"EE"),
            (STDOUT, b"OO"),
            (STDERR, b"EE"),
        ]


async def test_unread_streams_cost_nothing(job: Job) -> None:
    """When its last reader leaves, the job has no descriptor; twice is no harm."""
    alternate(job)

    with job.read() as reading:
        assert await asyncio.wait_for(reading.ready(), DEADLINE)
        take(reading)
        assert open_descriptors(job.written.directory.spool(STDOUT)) == 1

    reading.close()
    assert [fanout.readers for fanout in job.fanouts.values()] == [0, 0]
    assert open_descriptors(job.written.directory.spool(STDOUT)) == 0


async def test_stop_comes_where_a_reader_is(job: Job) -> None:
    """An end that is set amid what is read in parts leaves nothing of it to take."""
    job.say(b"OOOO")

    with job.read() as reading:
        assert await asyncio.wait_for(reading.ready(), DEADLINE)
        take(reading, 1)
        assert await asyncio.wait_for(reading.ready(), DEADLINE)
        reading.stop_at({STDOUT: 0, STDERR: 0})

        assert reading.take(100) is None
        assert not await asyncio.wait_for(reading.ready(), DEADLINE)
