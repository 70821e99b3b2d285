"""How far the copy of a job's output has come that takes long."""

import asyncio
import os
import stat
import sys
from collections.abc import Collection, Mapping

from teleworkerd.protocol.types import Chunk, Gap, Stream
from twctl.commands.meanwhile import INTERVAL, PATIENCE
from twctl.job import RemoteJob
from twctl.lookback import Wanted, find_ends
from twctl.render import is_screen


class Replay:
    """What is copied of *streams*, against what there was of them at some time.

    `begun` is set when it is known of each stream where its copy begins.
    """

    def __init__(self, streams: Collection[Stream]) -> None:
        self.streams = streams
        self.begun = asyncio.Event()
        self._starts: dict[Stream, int] = {}
        self._places: dict[Stream, int] = {}
        self._ends = dict.fromkeys(streams, 0)

    def begin(self, starts: Mapping[Stream, int]) -> None:
        """Note where copies begin, unless the first that comes says something else."""
        self._starts |= starts

        if self._starts.keys() >= {*self.streams}:
            self.begun.set()

    def see(self, item: Chunk | Gap) -> None:
        """Count what comes."""
        if item.stream not in self._places:
            self._starts[item.stream] = item.offset

        self._places[item.stream] = item.stop

    def expect(self, ends: Mapping[Stream, int]) -> None:
        """Note up to which offsets the streams go on."""
        self._ends |= ends

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


async def show(job: RemoteJob, replay: Replay, wanted: Wanted) -> None:
    """Show on stderr how far *replay* is, once that takes long, and up to its end."""
    await asyncio.sleep(PATIENCE)
    await replay.begun.wait()
    status = await job.status()
    replay.expect(await find_ends(job, status, replay.streams, wanted))

    from twctl.commands.progress import Bar  # noqa: PLC0415 - it brings rich

    with Bar() as bar:
        while replay.done < replay.total:
            bar.show(replay.done, total=replay.total)
            await asyncio.sleep(INTERVAL)
