"""One reader's place: where it ends, and when what it reads came."""

import asyncio
import time

import pytest

from teleworkerd.output.index import IndexRecord
from teleworkerd.protocol.messages import MAX_TIMES
from teleworkerd.protocol.types import Chunk, Gap
from tests.fakes import DEADLINE
from tests.output.readers import (
    caught_up,
    pieces_of,
    read_now,
    runs_of,
    take,
    time_of_each_byte,
)
from tests.output.streams import STDOUT, Source


async def test_stop_is_the_end(source: Source) -> None:
    """A reader with a stop gets nothing beyond it, whatever comes meanwhile."""
    source.write(b"0123456789")

    with source.fanout.subscribe(offset=1, stop=10) as reader:
        assert await read_now(reader, 2, limit=2) == b"12"
        source.write(b"abcdef")

        assert await runs_of(reader) == [(STDOUT, b"3456789")]
        assert not await reader.ready()


@pytest.mark.parametrize("offset", [0, 2])
async def test_stop_where_it_begins(source: Source, offset: int) -> None:
    """Who begins at the stop has nothing to wait for."""
    source.write(b"ab")

    with source.fanout.subscribe(offset=offset, stop=offset) as reader:
        assert not await asyncio.wait_for(reader.ready(), DEADLINE)
        assert reader.take(5) is None


async def test_stop_that_is_still_to_come(source: Source) -> None:
    """A stop beyond the present end is waited for, and cuts the chunk that has it."""
    with source.fanout.subscribe(stop=3) as reader:
        waiting = await caught_up(reader)
        source.write(b"ab")
        assert await asyncio.wait_for(waiting, DEADLINE)
        assert await read_now(reader, 2) == b"ab"
        waiting = await caught_up(reader)
        source.write(b"cdef")
        assert await asyncio.wait_for(waiting, DEADLINE)

        assert await runs_of(reader) == [(STDOUT, b"c")]


async def test_stop_that_never_comes(source: Source) -> None:
    """A stop that the stream does not reach ends with the stream."""
    source.write(b"ab")

    with source.fanout.subscribe(stop=100) as reader:
        source.fanout.end()

        assert await runs_of(reader) == [(STDOUT, b"ab")]


@pytest.mark.parametrize("is_live", [True, False])
async def test_gap_ends_at_the_stop(source: Source, *, is_live: bool) -> None:
    """Of a gap that goes on beyond the stop, a reader gets its part."""
    source.write(b"ab")

    with source.fanout.subscribe(offset=2 * is_live, stop=5) as reader:
        if is_live:
            waiting = await caught_up(reader)
            source.drop(10)
            assert await asyncio.wait_for(waiting, DEADLINE)
            assert await runs_of(reader) == [(STDOUT, 3)]
        else:
            source.drop(10)
            assert await runs_of(reader) == [(STDOUT, b"ab"), (STDOUT, 3)]


@pytest.mark.parametrize(
    ("stop", "rest"), [(0, b""), (4, b""), (5, b"e"), (6, b"ef"), (99, b"efgh")]
)
async def test_stop_comes_to_a_reader(source: Source, stop: int, rest: bytes) -> None:
    """An end that is set later cuts what the reader has in its hands, too."""
    with source.fanout.subscribe() as reader:
        waiting = await caught_up(reader)
        source.write(b"abcd")
        source.write(b"efgh")
        assert await asyncio.wait_for(waiting, DEADLINE)
        assert await read_now(reader, 4) == b"abcd"
        assert await asyncio.wait_for(reader.ready(), DEADLINE)
        reader.stop_at({STDOUT: stop})

        if not rest:
            assert reader.take(100) is None

        source.fanout.end()
        assert await runs_of(reader, limit=1) == [(STDOUT, rest)][: bool(rest)]


async def test_stop_wakes_who_waits(source: Source) -> None:
    """A reader that waits for more learns that there will be none."""
    with source.fanout.subscribe() as reader:
        waiting = await caught_up(reader)
        reader.stop_at({STDOUT: 0})

        assert not await asyncio.wait_for(waiting, DEADLINE)


@pytest.mark.parametrize("is_live", [True, False])
async def test_held_from_the_time_on(source: Source, *, is_live: bool) -> None:
    """After `until` a reader gets nothing, not even what it has, until it is told."""
    source.write(b"abc")

    with source.fanout.subscribe(offset=3 * is_live) as reader:
        waiting = asyncio.create_task(reader.ready())
        await asyncio.sleep(0)
        source.write(b"def")
        assert await asyncio.wait_for(waiting, DEADLINE)
        reader.until = time.time_ns()
        assert reader.take(100) is None
        waiting = await caught_up(reader)
        source.write(b"ghi")
        source.fanout.end()
        await asyncio.sleep(0)
        assert not waiting.done()
        reader.stop_at({STDOUT: 8})

        assert await asyncio.wait_for(waiting, DEADLINE)
        wanted = b"defgh" if is_live else b"abcdefgh"
        assert await runs_of(reader) == [(STDOUT, wanted)]


async def test_cancelled_wait_loses_nothing(source: Source) -> None:
    """A reader whose wait is cancelled while a chunk comes gets that chunk."""
    with source.fanout.subscribe() as reader:
        waiting = await caught_up(reader)
        source.write(b"ab")
        waiting.cancel()
        await asyncio.wait([waiting])

        assert await read_now(reader, 2) == b"ab"


async def test_take_needs_ready(source: Source) -> None:
    """Taking what has not been waited for is a bug of the caller."""
    with source.fanout.subscribe() as reader, pytest.raises(AssertionError):
        reader.take(1)


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_times_live_and_late(source: Source, limit: int) -> None:
    """Each byte has the time of its record, the same for every reader."""
    with source.with_times() as live:
        waiting = await caught_up(live)

        for at, data in ((10, b"a"), (11, b"bcd"), (12, b"efghijk"), (20, b"l")):
            source.write(data, at=at)

        source.drop(3)
        source.write(b"m", at=30)
        source.fanout.end()
        assert await asyncio.wait_for(waiting, DEADLINE)
        found = [time_of_each_byte(await pieces_of(live, limit))]

    with source.with_times() as late:
        found.append(time_of_each_byte(await pieces_of(late, limit)))

    moments = [10] + 3 * [11] + 7 * [12] + [20]
    wanted = {(STDOUT, offset): moment for offset, moment in enumerate(moments)}
    assert found == [{**wanted, (STDOUT, 15): 30}] * 2


async def test_times_from_the_middle(source: Source) -> None:
    """Who begins within a run has its time from the first byte on."""
    source.write(b"abc", at=10)
    source.write(b"d", at=20)
    source.fanout.end()

    with source.with_times(offset=1) as reader:
        assert await pieces_of(reader) == [Chunk(STDOUT, 1, b"bcd", (1, 10, 3, 20))]


async def test_times_only_if_asked_for(source: Source) -> None:
    """Without an index there are none."""
    source.write(b"abc", at=10)
    source.fanout.end()

    with source.fanout.subscribe() as reader:
        assert await pieces_of(reader) == [Chunk(STDOUT, 0, b"abc")]


@pytest.mark.parametrize("is_live", [True, False])
@pytest.mark.parametrize("more", [-1, 0, 1, MAX_TIMES])
async def test_times_are_bounded(source: Source, *, more: int, is_live: bool) -> None:
    """A chunk has no more runs than the protocol allows: it ends before the next."""
    count = MAX_TIMES + more
    source.history._chunk = source.fanout._chunk = 1 << 16

    for at in range(1, count + 1):
        source.written.order.append((STDOUT, b"x"))
        source.written.ends[STDOUT] = at
        source.written.records.append(IndexRecord(at, at, 0))

    source.spool.write_bytes(b"x" * count)
    source.written.write_index()

    with source.with_times() as reader:
        if is_live:
            waiting = await caught_up(reader)
            source.grow()
            assert await asyncio.wait_for(waiting, DEADLINE)
        else:
            source.grow()

        source.fanout.end()
        pieces = await pieces_of(reader)

    sizes = [len(piece.data) for piece in pieces if isinstance(piece, Chunk)]
    assert sizes == [min(count, MAX_TIMES), max(more, 0)][: 1 + (more > 0)]
    assert time_of_each_byte(pieces) == {
        (STDOUT, offset): offset + 1 for offset in range(count)
    }


async def test_gap_costs_no_limit(source: Source) -> None:
    """However little a reader may take, it gets a gap as one."""
    source.drop(1 << 30)

    with source.fanout.subscribe() as reader:
        assert await asyncio.wait_for(reader.ready(), DEADLINE)
        assert take(reader, 1) == Gap(STDOUT, 0, 1 << 30)
