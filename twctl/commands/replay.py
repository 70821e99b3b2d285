"""How far the copy of a job's output has come that takes long."""

import asyncio
import os
import stat
import sys
from collections.abc import Collection

from teleworkerd.protocol.types import Chunk, Gap, Stream
from twctl.commands.meanwhile import INTERVAL, PATIENCE
from twctl.job import RemoteJob
from twctl.render import is_screen
from twctl.verify import stream_status


class Replay:
    """What is copied of *streams*, against what there was of them at some time."""

    def __init__(self, streams: Collection[Stream]) -> None:
        self._starts: dict[Stream, int] = {}
        self._places: dict[Stream, int] = {}
        self._ends = dict.fromkeys(streams, 0)

    def see(self, item: Chunk | Gap) -> None:
        """Count what comes."""
        self._starts.setdefault(item.stream, item.offset)
        self._places[item.stream] = item.stop

    def expect(self, stream: Stream, end: int) -> None:
        """Note that a stream went on up to the offset *end*, if it is copied."""
        if stream in self._ends:
            self._ends[stream] = end

    @property
    def done(self) -> int:
        """How many bytes of what is expected are copied."""
        return sum(
            max(0, min(place, self._ends[stream]) - self._starts[stream])
            for stream, place in self._places.items()
        )

    @property
    def total(self) -> int:
        """How many bytes are expected, with those that are copied."""
        return sum(
            max(0, end - self._starts.get(stream, 0))
            for stream, end in self._ends.items()
        )


def can_show(descriptors: Collection[int]) -> bool:
    """Whether a bar on stderr disturbs nobody when output goes to *descriptors*.

    Who reads our stdout from a pipe may draw on the same terminal.
    """
    return is_screen(sys.stderr) and all(
        stat.S_ISREG(os.fstat(descriptor).st_mode) for descriptor in descriptors
    )


async def show(job: RemoteJob, replay: Replay) -> None:
    """Show on stderr how far *replay* is, once that takes long, and up to its end."""
    await asyncio.sleep(PATIENCE)
    status = await job.status()

    for stream in Stream:
        replay.expect(stream, stream_status(status, stream).end)

    from twctl.commands.progress import Bar  # noqa: PLC0415 - it brings rich

    with Bar(replay.total) as bar:
        while replay.done < replay.total:
            bar.show(replay.done)
            await asyncio.sleep(INTERVAL)
