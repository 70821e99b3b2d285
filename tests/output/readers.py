"""Readers of output, at any speed."""

import asyncio
from dataclasses import dataclass, field

from teleworkerd.output.subscription import Reading
from teleworkerd.protocol.messages import MAX_TIMES
from teleworkerd.protocol.types import Chunk, Gap, Piece, Stream
from tests.fakes import DEADLINE
from tests.output.written import Runs, joined, run_of


def take(reading: Reading, limit: int = 1 << 20) -> Piece:
    """Take what there is, which is just where the last piece ended."""
    before = dict(reading.offsets)
    piece = reading.take(limit)
    assert piece is not None
    assert before[piece.stream] == piece.offset < piece.stop
    assert {**before, piece.stream: piece.stop} == reading.offsets

    if isinstance(piece, Chunk):
        assert len(piece.data) <= limit
        check_times(piece)

    return piece


def check_times(chunk: Chunk) -> None:
    """Check that the times of *chunk* are what the protocol allows."""
    offsets, moments = chunk.times[::2], chunk.times[1::2]
    assert len(offsets) == len(moments) <= MAX_TIMES
    assert sorted(set(offsets)) == list(offsets)
    assert sorted(moments) == list(moments)

    if offsets:
        assert offsets[0] == chunk.offset
        assert offsets[-1] < chunk.stop


async def read_now(reading: Reading, size: int, limit: int = 1 << 20) -> bytes:
    """Return the next *size* bytes, or all up to the end; there are no gaps."""
    found = b""

    async with asyncio.timeout(DEADLINE):
        while len(found) < size and await reading.ready():
            piece = take(reading, limit)
            assert isinstance(piece, Chunk)
            found += piece.data

    return found


async def pieces_of(reading: Reading, limit: int = 1 << 20) -> list[Piece]:
    """Return all pieces up to the end."""
    found = []

    async with asyncio.timeout(DEADLINE):
        while await reading.ready():
            found.append(take(reading, limit))

    return found


async def runs_of(reading: Reading, limit: int = 1 << 20) -> Runs:
    """Return all that is read up to the end."""
    return joined([run_of(piece) for piece in await pieces_of(reading, limit)])


async def caught_up(reading: Reading) -> "asyncio.Task[bool]":
    """Return the task in which a reader that has read all waits for more."""
    waiting = asyncio.create_task(reading.ready())

    for _ in range(3):
        await asyncio.sleep(0)

    assert not waiting.done()
    return waiting


def time_of_each_byte(pieces: list[Piece]) -> dict[tuple[Stream, int], int]:
    """Return when each byte came, by stream and offset, as the pieces say."""
    found = {}

    for piece in pieces:
        if isinstance(piece, Gap) or not piece.times:
            continue

        stops = (*piece.times[2::2], piece.stop)

        for offset, moment, stop in zip(
            piece.times[::2], piece.times[1::2], stops, strict=True
        ):
            for each in range(offset, stop):
                found[piece.stream, each] = moment

    return found


@dataclass
class Reader:
    """One who reads in a task, with rests, so much at once."""

    reading: Reading
    limits: list[int]
    may_read: asyncio.Event = field(default_factory=asyncio.Event)
    pieces: list[Piece] = field(default_factory=list)

    async def run(self) -> None:
        """Read to the end, as often as it may."""
        turn = 0

        while await self.reading.ready():
            await self.may_read.wait()
            self.pieces.append(take(self.reading, self.limits[turn % len(self.limits)]))
            turn += 1

    @property
    def runs(self) -> Runs:
        """What was read."""
        return joined([run_of(piece) for piece in self.pieces])
