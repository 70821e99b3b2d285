"""However long an index is, no reader of it keeps the others from their turn."""

import asyncio
import itertools
from collections.abc import Sequence

import pytest

from teleworkerd.output.index import RECORD, IndexRecord
from teleworkerd.protocol.types import Stream
from tests.fakes import DEADLINE
from tests.output.readers import caught_up, pieces_of, runs_of
from tests.output.reads import Reads
from tests.output.streams import Job, Source


STDOUT, STDERR = Stream

COUNT = 50_000  # records


def chat(job: Job, records: Sequence[IndexRecord]) -> None:
    """Let the job have written what *records* say, all of it told."""
    job.written.records = list(records)
    job.written.write_index()
    job.written.write(b"o" * records[-1].stdout, STDOUT)
    job.written.write(b"e" * records[-1].stderr, STDERR)
    job.tell()


@pytest.mark.parametrize("stops", [(3, 2), (3, 0), (0, 0)])
async def test_walk_ends_at_the_stops(
    job: Job, monkeypatch: pytest.MonkeyPatch, stops: tuple[int, int]
) -> None:
    """Of what lies beyond its end, a reader looks at no more than it reads at once."""
    chat(job, [IndexRecord(n, n, n) for n in range(1, COUNT + 1)])
    reads = Reads(monkeypatch)

    with job.read(stops=dict(zip(Stream, stops, strict=True))) as reading:
        pieces = await pieces_of(reading)

    assert sum(piece.stop - piece.offset for piece in pieces) == sum(stops)
    assert reads.bytes < COUNT * RECORD.size // 20


async def test_others_have_turns(job: Job) -> None:
    """A reader who looks for little among very much lets others go on meanwhile."""
    step = 1000
    chat(job, [IndexRecord(n, n // step, n) for n in range(1, COUNT + 1)])
    turns = 0

    async def count() -> None:
        nonlocal turns

        while True:
            await asyncio.sleep(0)
            turns += 1

    with job.read(
        stderr=COUNT, stops={STDOUT: COUNT // step, STDERR: COUNT}
    ) as reading:
        counting = asyncio.create_task(count())
        assert await asyncio.wait_for(reading.ready(), DEADLINE)
        counting.cancel()

    assert turns > COUNT // 1024 - 2


async def test_end_comes_meanwhile(job: Job) -> None:
    """An end that is set while a reader looks for what is next holds for that."""
    step = 1000
    chat(job, [IndexRecord(n, n // step, n) for n in range(1, COUNT + 1)])

    with job.read(stderr=COUNT) as reading:
        looking = asyncio.create_task(reading.ready())

        for _ in range(5):
            await asyncio.sleep(0)

        assert not looking.done()
        reading.stop_at({STDOUT: 2, STDERR: COUNT})
        assert await asyncio.wait_for(looking, DEADLINE)

        assert await runs_of(reading) == [(STDOUT, b"oo")]


@pytest.mark.parametrize("both", [True, False])
async def test_each_piece_is_a_turn(job: Job, *, both: bool) -> None:
    """Between two pieces of what was written before, others go on."""
    chat(job, [IndexRecord(n, n, n) for n in range(1, 101)])
    happened: list[str] = []

    async def others() -> None:
        while True:
            happened.append("others")
            await asyncio.sleep(0)

    with job.read() if both else job.fanouts[STDOUT].subscribe(stop=100) as reading:
        if both:
            reading.stop_at(dict.fromkeys(Stream, 100))

        going_on = asyncio.create_task(others())

        async with asyncio.timeout(DEADLINE):
            while await reading.ready():
                reading.take(1)
                happened.append("piece")

        going_on.cancel()

    assert happened.count("piece") == (200 if both else 100)
    assert ("piece", "piece") not in itertools.pairwise(happened)


async def test_growth_that_nobody_waits_for(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of much that comes at once no more is read than the readers have room for."""
    with source.fanout.subscribe() as reading:
        waiting = await caught_up(reading)
        reads = Reads(monkeypatch)
        source.write(b"x" * 4000)
        assert reads.count < 10

        source.fanout.end()
        assert await asyncio.wait_for(waiting, DEADLINE)
        assert await runs_of(reading) == [(STDOUT, b"x" * 4000)]
