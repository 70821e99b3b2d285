"""Many readers of one stream: every byte, once, in order, whatever happens."""

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teleworkerd.protocol.errors import JobRemoved, OffsetOutOfRange
from teleworkerd.protocol.types import Gap
from tests.fakes import DEADLINE, open_descriptors
from tests.output.readers import Reader, caught_up, read_now, runs_of, take
from tests.output.streams import STDOUT, Source


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(1, 30), st.booleans()),
        st.tuples(st.just("drop"), st.integers(1, 30), st.booleans()),
        st.tuples(st.just("join"), st.floats(0, 1), st.booleans()),
        st.tuples(st.just("toggle"), st.integers(0, 3), st.booleans()),
        st.tuples(st.just("turn"), st.integers(1, 5), st.booleans()),
    ),
    max_size=30,
)


async def act(
    source: Source, actions: list[tuple[str, int | float, bool]], limits: list[int]
) -> list[tuple[Reader, int, int | None]]:
    """Do *actions*, to the end; return the readers, and what each was to read."""
    readers: list[tuple[Reader, int, int | None]] = []
    tasks = []

    for number, (action, amount, flag) in enumerate(actions):
        size = source.fanout.size

        if action == "write":
            source.write(bytes([number]) * int(amount))
        elif action == "drop":
            source.drop(int(amount))
        elif action == "join":
            begin, stop = int(size * amount), None if flag else size
            subscription = source.fanout.subscribe(
                offset=begin, stop=stop, index=source.index if amount < 0.5 else None
            )
            reader = Reader(subscription, limits)
            reader.may_read.set()
            readers.append((reader, begin, stop))
            tasks.append(asyncio.create_task(reader.run()))
        elif action == "toggle" and readers:
            may_read = readers[int(amount) % len(readers)][0].may_read
            may_read.set() if flag else may_read.clear()
        else:
            for _ in range(int(amount)):
                await asyncio.sleep(0)

    source.fanout.end()

    for reader, _, _ in readers:
        reader.may_read.set()

    async with asyncio.timeout(DEADLINE):
        await asyncio.gather(*tasks)

    return readers


@settings(max_examples=80, deadline=None)
@given(
    actions=ACTIONS,
    window=st.integers(0, 20),
    chunk=st.integers(1, 9),
    queue_chunks=st.integers(1, 3),
    limits=st.lists(st.integers(1, 12), min_size=1, max_size=3),
)
async def test_every_byte_once(
    actions: list[tuple[str, int | float, bool]],
    window: int,
    chunk: int,
    queue_chunks: int,
    limits: list[int],
) -> None:
    """Whoever comes, rests or falls behind gets every byte and gap once, and ends."""
    with tempfile.TemporaryDirectory() as directory:
        source = Source(
            Path(directory), window=window, chunk=chunk, queue_chunks=queue_chunks
        )

        for reader, begin, stop in await act(source, actions, limits):
            assert reader.runs == source.written.runs(STDOUT, begin, stop)
            reader.reading.close()

        assert open_descriptors(source.spool) == 0
        source.close()


async def test_behind_then_live_then_behind(source: Source) -> None:
    """A reader begins behind, catches up, and falls behind when it rests."""
    was_behind = []
    source.write(b"old")

    with source.fanout.subscribe() as reader:
        was_behind.append(reader.is_behind)
        assert await read_now(reader, 3) == b"old"

        waiting = await caught_up(reader)
        source.write(b"new")
        assert await asyncio.wait_for(waiting, DEADLINE)
        was_behind.append(reader.is_behind)
        assert await read_now(reader, 3) == b"new"

        source.write(b"x" * 100)
        was_behind.append(reader.is_behind)
        assert await read_now(reader, 100) == b"x" * 100

    assert was_behind == [True, False, True]


async def test_live_reader_needs_no_disk(source: Source) -> None:
    """A reader that keeps up is handed the bytes that were read once for all."""
    with source.fanout.subscribe() as reader, source.fanout.subscribe() as other:
        waiting = [await caught_up(reader), await caught_up(other)]
        source.write(b"ab")
        source.spool.write_bytes(b"XX")

        assert await asyncio.wait_for(asyncio.gather(*waiting), DEADLINE)
        assert await read_now(reader, 2) == await read_now(other, 2) == b"ab"


async def test_slow_reader_holds_nothing(source: Source) -> None:
    """A reader that falls behind holds no chunk in its queue, then and later."""
    with source.fanout.subscribe() as slow, source.fanout.subscribe() as quick:
        waiting = await caught_up(slow)
        wanted = b""

        for number in range(50):
            data = bytes([number]) * 16
            wanted += data
            source.write(data)
            assert await read_now(quick, 16) == data

            if number > 1:
                queued = [slow._queue.get_nowait() for _ in range(slow._queue.qsize())]
                assert set(queued) <= {None}
                slow.wake()

        assert await asyncio.wait_for(waiting, DEADLINE)
        assert await read_now(slow, 800) == wanted


async def test_queue_is_bounded(source: Source) -> None:
    """Up to the very chunk that is too many, a reader is live; then it is behind."""
    with source.fanout.subscribe() as reader:
        waiting = await caught_up(reader)
        source.write(b"aaaabbbb")
        states = [(reader.is_behind, reader._queue.qsize())]
        source.write(b"c")
        states.append((reader.is_behind, reader._queue.qsize()))

        assert states == [(False, 2), (True, 1)]  # the one is a wake-up
        assert await asyncio.wait_for(waiting, DEADLINE)
        assert await read_now(reader, 9, limit=3) == b"aaaabbbbc"


async def test_end_wakes_those_who_wait(source: Source) -> None:
    """The end comes to who waits for more, and to who comes later."""
    with source.fanout.subscribe() as early:
        waiting = await caught_up(early)
        source.fanout.end()

        assert not await asyncio.wait_for(waiting, DEADLINE)
        assert not await early.ready()

    with source.fanout.subscribe() as late:
        assert await runs_of(late) == []


async def test_end_behind_a_full_queue(source: Source) -> None:
    """The end hides nothing from a reader whose queue is full."""
    with source.fanout.subscribe() as reader:
        waiting = await caught_up(reader)
        source.write(b"abcdefgh")
        source.fanout.end()

        assert await asyncio.wait_for(waiting, DEADLINE)
        assert await runs_of(reader, limit=3) == [(STDOUT, b"abcdefgh")]


@pytest.mark.parametrize("offset", [-1, 3])
def test_offset_outside_refused(source: Source, offset: int) -> None:
    """An offset that the stream does not have is refused, with what it has."""
    source.write(b"ab")

    with pytest.raises(OffsetOutOfRange, match="from 0 up to 2") as caught:
        source.fanout.subscribe(offset=offset)

    assert caught.value.details == {"first": 0, "end": 2}
    assert source.fanout.readers == 0


async def test_unreadable_spool_is_no_end(source: Source) -> None:
    """A live reader sees that the spool cannot be read, and goes on when it can."""
    hidden = source.spool.with_name("hidden")

    with source.fanout.subscribe() as reader:
        waiting = await caught_up(reader)
        source.written.write(b"abcdef")
        source.spool.rename(hidden)

        with pytest.raises(FileNotFoundError):
            source.grow()

        assert await asyncio.wait_for(waiting, DEADLINE)

        with pytest.raises(FileNotFoundError):
            reader.take(6)

        source.fanout.end()
        assert source.fanout.size == 6
        hidden.rename(source.spool)
        assert await runs_of(reader) == [(STDOUT, b"abcdef")]


async def test_cut_spool_is_no_end(source: Source) -> None:
    """A reader of a spool that somebody cut gets an error, and does not wait."""
    source.write(b"abcdef")
    source.spool.write_bytes(b"ab")

    with source.fanout.subscribe(stop=6) as reader:
        assert await read_now(reader, 2) == b"ab"
        assert await asyncio.wait_for(reader.ready(), DEADLINE)

        with pytest.raises(OSError, match="ends before offset 2"):
            reader.take(4)


async def test_reader_that_may_not_go_on_holds_nothing(source: Source) -> None:
    """Until its client gives credit, nothing is read for a reader that is behind."""
    source.write(b"abcdef")

    with source.fanout.subscribe() as reader:
        assert await asyncio.wait_for(reader.ready(), DEADLINE)
        assert open_descriptors(source.spool) == 0
        assert await read_now(reader, 2, limit=2) == b"ab"


async def test_unread_stream_costs_nothing(source: Source) -> None:
    """When its last reader leaves, a stream that goes on frees what it held."""
    with source.fanout.subscribe() as reader:
        waiting = await caught_up(reader)
        source.write(b"abcdef")
        assert await asyncio.wait_for(waiting, DEADLINE)
        assert open_descriptors(source.spool) == 1

    reader.close()
    assert source.fanout.readers == 0
    assert open_descriptors(source.spool) == 0
    assert len(source.history._window) == 0

    source.write(b"ghi")
    assert open_descriptors(source.spool) == 0

    with source.fanout.subscribe(offset=4) as later:
        assert await read_now(later, 5) == b"efghi"


def test_growth_never_goes_back(source: Source) -> None:
    """An older size, told late, takes nothing away."""
    source.write(b"abcdef")
    source.fanout.grow(2)

    assert source.fanout.size == 6


async def test_removed(source: Source) -> None:
    """Readers of what is removed are told, whether they wait or may just read."""
    removed = JobRemoved("it was removed")
    source.write(b"abcd")

    with (
        source.fanout.subscribe(offset=4) as waits,
        source.fanout.subscribe() as behind,
        source.fanout.subscribe() as ready,
    ):
        waiting = await caught_up(waits)
        assert await asyncio.wait_for(ready.ready(), DEADLINE)
        source.spool.unlink()
        source.fanout.end(removed)

        with pytest.raises(JobRemoved):
            await asyncio.wait_for(waiting, DEADLINE)

        with pytest.raises(JobRemoved):
            await asyncio.wait_for(behind.ready(), DEADLINE)

        with pytest.raises(JobRemoved):
            ready.take(4)


async def test_removal_under_way(source: Source) -> None:
    """Who finds the spool gone hears that it is being removed, and only then."""
    source.write(b"abcdefgh")

    with source.fanout.subscribe() as reader:
        source.fanout.removal = JobRemoved("it is being removed")
        assert await read_now(reader, 3, limit=3) == b"abc"
        source.spool.write_bytes(b"")
        source.history.close()

        with pytest.raises(JobRemoved, match="being removed"):
            await read_now(reader, 3)

        source.fanout.removal = None

        with pytest.raises(OSError, match="ends before offset 3"):
            await read_now(reader, 3)


async def test_gap_that_grows_under_a_reader(source: Source) -> None:
    """A reader in a gap gets it in parts, as it grows, and then what comes after."""
    source.write(b"ab")
    source.drop(3)

    with source.fanout.subscribe() as reader:
        assert await read_now(reader, 2) == b"ab"
        assert await asyncio.wait_for(reader.ready(), DEADLINE)
        assert take(reader) == Gap(STDOUT, 2, 5)
        waiting = await caught_up(reader)
        source.drop(4)
        assert await asyncio.wait_for(waiting, DEADLINE)
        source.drop(1)
        assert take(reader, 1) == Gap(STDOUT, 5, 9)
        source.write(b"cd")
        source.fanout.end()
        assert await runs_of(reader) == [(STDOUT, 1), (STDOUT, b"cd")]


def test_dropped_counts_what_is_told(source: Source) -> None:
    """Of a gap that is known before the stream goes so far, only that much counts."""
    source.write(b"ab")
    source.fanout.gaps.add(2, 100)
    counts = [source.fanout.dropped]
    source.fanout.grow(7)
    counts.append(source.fanout.dropped)

    assert counts == [0, 5]
