"""Many readers of one stream: every byte, once, in order, whatever happens."""

import asyncio
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teleworkerd.output.fanout import Fanout, Subscription
from teleworkerd.output.history import OutputHistory
from teleworkerd.protocol.errors import OffsetOutOfRange
from tests.fakes import DEADLINE, open_descriptors


class Stream:
    """A fan-out and the spool below it."""

    def __init__(
        self, path: Path, *, window: int = 8, chunk: int = 4, queue_chunks: int = 2
    ) -> None:
        self.spool = path
        self.spool.touch()
        self.data = b""
        self.history = OutputHistory(path, window=window, chunk=chunk)
        self.fanout = Fanout(self.history, chunk=chunk, queue_chunks=queue_chunks)

    def write(self, data: bytes) -> None:
        """Let the job write *data*, and the keeper tell of it."""
        self.data += data

        with self.spool.open("ab") as file:
            file.write(data)

        self.fanout.grow(len(self.data))


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[Stream]:
    """A stream in chunks of four bytes, two to a queue, eight in the window."""
    stream = Stream(tmp_path / "stdout")
    yield stream
    stream.history.close()


async def read_now(reader: Subscription, size: int, limit: int = 100) -> bytes:
    """Return the next *size* bytes."""
    found = b""

    async with asyncio.timeout(DEADLINE):
        while len(found) < size and await reader.ready():
            begin = reader.offset
            chunk = reader.take(limit)
            assert (begin, reader.offset) == (chunk.offset, chunk.stop)
            assert 0 < len(chunk.data) <= limit
            found += chunk.data

    return found


async def read_all(reader: Subscription, limit: int = 100) -> bytes:
    """Return all bytes up to the reader's end."""
    return await read_now(reader, 1 << 30, limit)


async def caught_up(reader: Subscription) -> "asyncio.Task[bool]":
    """Return the task in which the reader, which has read all, waits for more."""
    waiting = asyncio.create_task(reader.ready())
    await asyncio.sleep(0)
    assert not reader.is_behind
    return waiting


@dataclass
class Reader:
    """One reader of the model: where it began, and what it found."""

    subscription: Subscription
    begin: int
    end: int | None
    limits: list[int]
    may_read: asyncio.Event = field(default_factory=asyncio.Event)
    found: bytes = b""

    async def run(self) -> None:
        """Read as long as there is something, with rests."""
        turn = 0

        while await self.subscription.ready():
            await self.may_read.wait()
            chunk = self.subscription.take(self.limits[turn % len(self.limits)])
            turn += 1
            assert self.begin + len(self.found) == chunk.offset
            self.found += chunk.data


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(1, 30), st.booleans()),
        st.tuples(st.just("join"), st.floats(0, 1), st.booleans()),
        st.tuples(st.just("toggle"), st.integers(0, 3), st.booleans()),
        st.tuples(st.just("turn"), st.integers(1, 5), st.booleans()),
    ),
    max_size=30,
)


@settings(max_examples=120, deadline=None)
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
    """Whoever comes, rests or falls behind gets every byte once, and ends."""
    with tempfile.TemporaryDirectory() as directory:
        stream = Stream(
            Path(directory) / "stdout",
            window=window,
            chunk=chunk,
            queue_chunks=queue_chunks,
        )
        readers: list[Reader] = []
        tasks = []

        for number, (action, amount, flag) in enumerate(actions):
            size = len(stream.data)

            if action == "write":
                stream.write(bytes([number]) * int(amount))
            elif action == "join":
                begin = int(size * amount)
                reader = Reader(
                    stream.fanout.subscribe(offset=begin, follow=flag),
                    begin,
                    None if flag else size,
                    limits,
                )
                reader.may_read.set()
                readers.append(reader)
                tasks.append(asyncio.create_task(reader.run()))
            elif action == "toggle" and readers:
                may_read = readers[int(amount) % len(readers)].may_read
                may_read.set() if flag else may_read.clear()
            else:
                for _ in range(int(amount)):
                    await asyncio.sleep(0)

            for reader in readers:
                assert reader.subscription._queue.qsize() <= queue_chunks

        stream.fanout.end()

        for reader in readers:
            reader.may_read.set()

        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*tasks)

        for reader in readers:
            assert stream.data[reader.begin : reader.end] == reader.found
            stream.fanout.unsubscribe(reader.subscription)

        assert open_descriptors(stream.spool) == 0


async def test_behind_then_live_then_behind(stream: Stream) -> None:
    """A reader begins behind, catches up, and falls behind when it rests."""
    was_behind = []
    stream.write(b"old")

    with stream.fanout.subscribe() as reader:
        was_behind.append(reader.is_behind)
        assert await read_now(reader, 3) == b"old"

        waiting = await caught_up(reader)
        stream.write(b"new")
        assert await asyncio.wait_for(waiting, DEADLINE)
        was_behind.append(reader.is_behind)
        assert await read_now(reader, 3) == b"new"

        stream.write(b"x" * 100)
        was_behind.append(reader.is_behind)
        assert await read_now(reader, 100) == b"x" * 100

    assert was_behind == [True, False, True]


async def test_waiting_reader_is_woken(stream: Stream) -> None:
    """A reader that waits gets what comes, without another look at the disk."""
    with stream.fanout.subscribe() as reader:
        waiting = await caught_up(reader)
        stream.write(b"ab")

        assert await asyncio.wait_for(waiting, DEADLINE)
        assert reader.take(10).data == b"ab"


async def test_slow_reader_costs_its_queue(stream: Stream) -> None:
    """A reader that never reads keeps no more chunks than its queue holds."""
    with stream.fanout.subscribe() as slow, stream.fanout.subscribe() as quick:
        waiting = await caught_up(slow)

        for _ in range(50):
            stream.write(b"abcd" * 4)
            assert len(await read_now(quick, 16)) == 16

        assert slow._queue.qsize() <= 2
        assert await asyncio.wait_for(waiting, DEADLINE)
        assert await read_now(slow, 800) == stream.data


async def test_end_wakes_those_who_wait(stream: Stream) -> None:
    """The end comes to who waits for more, and to who comes later."""
    with stream.fanout.subscribe() as early:
        waiting = await caught_up(early)
        stream.fanout.end()

        assert not await asyncio.wait_for(waiting, DEADLINE)
        assert not await early.ready()

    with stream.fanout.subscribe() as late:
        assert await read_all(late) == b""


async def test_end_behind_a_full_queue(stream: Stream) -> None:
    """The end hides nothing from a reader whose queue is full."""
    with stream.fanout.subscribe() as reader:
        waiting = await caught_up(reader)
        stream.write(b"abcdefghijkl")
        stream.fanout.end()

        assert await asyncio.wait_for(waiting, DEADLINE)
        assert await read_all(reader, limit=3) == b"abcdefghijkl"


async def test_no_follow_ends_at_what_there_was(stream: Stream) -> None:
    """Without follow, growth after the request is no part of the response."""
    stream.write(b"0123456789")

    with stream.fanout.subscribe(offset=1, follow=False) as reader:
        assert await read_now(reader, 2, limit=2) == b"12"
        stream.write(b"abcdef")

        assert await read_all(reader) == b"3456789"
        assert not await reader.ready()


async def test_no_follow_at_the_end_ends_at_once(stream: Stream) -> None:
    """Without follow there is nothing to wait for at the end."""
    stream.write(b"ab")

    with stream.fanout.subscribe(offset=2, follow=False) as reader:
        assert not await asyncio.wait_for(reader.ready(), DEADLINE)


@pytest.mark.parametrize("offset", [-1, 3])
def test_offset_outside_refused(stream: Stream, offset: int) -> None:
    """An offset that the stream does not have is refused, with what it has."""
    stream.write(b"ab")

    with pytest.raises(OffsetOutOfRange, match="from 0 up to 2") as caught:
        stream.fanout.subscribe(offset=offset)

    assert caught.value.details == {"first": 0, "end": 2}
    assert stream.fanout.readers == 0


async def test_cancelled_wait_loses_nothing(stream: Stream) -> None:
    """A reader whose wait is cancelled while a chunk comes gets that chunk."""
    with stream.fanout.subscribe() as reader:
        waiting = await caught_up(reader)
        stream.write(b"ab")
        waiting.cancel()
        await asyncio.wait([waiting])

        assert await read_now(reader, 2) == b"ab"


async def test_take_needs_ready(stream: Stream) -> None:
    """Taking what has not been waited for is a bug of the caller."""
    with stream.fanout.subscribe() as reader, pytest.raises(AssertionError):
        reader.take(1)


async def test_unreadable_spool_is_no_end(stream: Stream) -> None:
    """A live reader sees that the spool cannot be read, and goes on when it can."""
    hidden = stream.spool.with_name("hidden")

    with stream.fanout.subscribe() as reader:
        waiting = await caught_up(reader)
        stream.spool.rename(hidden)
        stream.data = b"abcdef"
        hidden.write_bytes(b"abcdef")

        with pytest.raises(FileNotFoundError):
            stream.fanout.grow(6)

        assert await asyncio.wait_for(waiting, DEADLINE)

        with pytest.raises(FileNotFoundError):
            reader.take(6)

        stream.fanout.end()
        assert stream.fanout.size == 6
        hidden.rename(stream.spool)
        assert await read_all(reader) == b"abcdef"


async def test_cut_spool_is_no_end(stream: Stream) -> None:
    """A reader of a spool that somebody cut gets an error, and does not wait."""
    stream.write(b"abcdef")
    stream.spool.write_bytes(b"ab")

    with stream.fanout.subscribe(follow=False) as reader:
        assert await read_now(reader, 2) == b"ab"

        assert await asyncio.wait_for(reader.ready(), DEADLINE)

        with pytest.raises(OSError, match="ends before offset 2"):
            reader.take(4)


async def test_reader_that_may_not_go_on_holds_nothing(stream: Stream) -> None:
    """Until its client gives credit, nothing is read for a reader that is behind."""
    stream.write(b"abcdef")

    with stream.fanout.subscribe() as reader:
        assert await asyncio.wait_for(reader.ready(), DEADLINE)
        assert open_descriptors(stream.spool) == 0
        assert reader.take(2).data == b"ab"


async def test_unread_stream_costs_nothing(stream: Stream) -> None:
    """When its last reader leaves, a stream that goes on frees what it held."""
    with stream.fanout.subscribe() as reader:
        waiting = await caught_up(reader)
        stream.write(b"abcdef")
        assert await asyncio.wait_for(waiting, DEADLINE)
        assert open_descriptors(stream.spool) == 1

    stream.fanout.unsubscribe(reader)
    assert stream.fanout.readers == 0
    assert open_descriptors(stream.spool) == 0
    assert len(stream.history._window) == 0

    stream.write(b"ghi")
    assert open_descriptors(stream.spool) == 0

    with stream.fanout.subscribe(offset=4) as later:
        assert await read_now(later, 5) == b"efghi"


def test_growth_never_goes_back(stream: Stream) -> None:
    """An older size, told late, takes nothing away."""
    stream.write(b"abcdef")
    stream.fanout.grow(2)

    assert stream.fanout.size == 6
