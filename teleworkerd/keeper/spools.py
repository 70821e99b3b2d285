"""Both streams of one job, from its pipes into its directory, and the news of them."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Final, Protocol, assert_never

from teleworkerd.config import OutputConfig
from teleworkerd.jobdir import JobDirectory, open_new
from teleworkerd.keeper.messages import OutputDropped, OutputGrown, OutputHeldUp
from teleworkerd.keeper.quota import Bound, Share, Shortage
from teleworkerd.keeper.records import GapFile, SpoolIndex
from teleworkerd.keeper.spool import Books, Spool
from teleworkerd.protocol.messages import Message
from teleworkerd.protocol.types import JobSpec, OnFull, Stream


log = logging.getLogger(__name__)

_SETTLE_RETRY: Final = 1.0  # seconds


class SpoolsWatcher(Protocol):
    """Who hears of a job's output."""

    def output_changed(self) -> None:
        """There is something in `Spools.news`."""

    def output_exceeded(self, shortage: Shortage) -> None:
        """There is no room, and the job is to be killed for it; told once."""


class Spools:
    """The spools of one job, with their index and gaps.

    *share* is the room that there is for them. Raises `OSError` when the files or
    pipes cannot be made.
    """

    def __init__(
        self,
        directory: JobDirectory,
        spec: JobSpec,
        *,
        config: OutputConfig,
        share: Share,
        watcher: SpoolsWatcher,
    ) -> None:
        self._job = directory.path.name
        self._on_full = spec.on_full or config.on_full
        self._watcher = watcher
        self._is_exceeded = False
        self._is_over = False
        self._gives_up = False
        self._dropped: dict[Stream, list[tuple[int, int]]] = {}
        self._spools: dict[Stream, Spool] = {}

        with contextlib.ExitStack() as stack:
            self._index = SpoolIndex(directory, grown=watcher.output_changed)
            stack.callback(self._index.close)
            may_drop = self._on_full is not OnFull.BLOCK
            self._gaps = GapFile(directory, reserve=may_drop)
            stack.callback(self._gaps.close)
            books = Books(self._index, self._gaps, share)

            for stream in Stream:
                if spec.merge and stream is Stream.STDERR:
                    # The job's stderr is the pipe of its stdout.
                    os.close(open_new(directory.spool(stream)))
                    continue

                spool = Spool(
                    directory, stream, books=books, watcher=self, pipe=config.pipe
                )
                self._spools[stream] = spool
                self._dropped[stream] = []
                stack.callback(spool.close)

            self._stack = stack.pop_all()

        self._told = self.ends
        self._told_held_up = self.why_held_up

    @property
    def write_ends(self) -> tuple[int, int]:
        """The descriptors that the job has as its stdout and stderr."""
        stdout = self._spools[Stream.STDOUT]
        return stdout.write_end, self._spools.get(Stream.STDERR, stdout).write_end

    @property
    def ends(self) -> tuple[int, int]:
        """How far stdout and stderr are, as the index says."""
        return self._index.recorded.stdout, self._index.recorded.stderr

    @property
    def why_held_up(self) -> str | None:
        """Why output is not taken now; None while it is."""
        for spool in self._spools.values():
            if spool.shortage is not None:
                return str(spool.shortage)

        return None

    def dropped_of(self, stream: Stream) -> int:
        """Return how many bytes of *stream* were not kept."""
        return self._spools[stream].dropped if stream in self._spools else 0

    def launched(self) -> None:
        """Leave the write ends to the job, and begin to move."""
        for spool in self._spools.values():
            spool.launched()

    def news(self) -> Iterator[Message]:
        """Yield what has changed since the last time, in the order to tell it."""
        stdout, stderr = self.ends
        yield from self._take_dropped(Stream.STDOUT, stdout)
        yield from self._take_dropped(Stream.STDERR, stderr)

        if (stdout, stderr) != self._told:
            self._told = stdout, stderr
            yield OutputGrown(self._job, stdout, stderr)

        if self.why_held_up != self._told_held_up:
            self._told_held_up = self.why_held_up
            yield OutputHeldUp(self._job, self.why_held_up)

    def forget_news(self) -> None:
        """Begin anew for one who has been told how things are now."""
        for _ in self.news():
            continue

    def over(self) -> None:
        """Note that the job has ended: what can never have room is dropped."""
        self._is_over = True
        self._resume()

    def give_up(self) -> None:
        """Drop what no limit has room for; for room on the disk wait on."""
        self._gives_up = True
        self._resume()

    async def ended(self) -> None:
        """Wait until both pipes are at their end."""
        for spool in self._spools.values():
            await spool.ended.wait()

    async def settle(self) -> None:
        """Take no more, and wait until index and gaps say everything."""
        is_told = False

        for spool in self._spools.values():
            spool.close()

        while True:
            try:
                for stream, spool in self._spools.items():
                    self._gaps.settle(stream, spool.end)

                self._index.settle()
            except OSError as error:
                if not is_told:
                    log.error("job %s: its index must wait: %s", self._job, error)

                is_told = True
                await asyncio.sleep(_SETTLE_RETRY)
            else:
                return

    def close(self) -> None:
        """Close everything; twice is no harm."""
        self._stack.close()

    def may_drop(self, shortage: Shortage) -> bool:
        """Whether bytes that have no room are to be dropped; called by a spool."""
        if shortage.bound is Bound.FAULT:
            return False

        match self._on_full:
            case OnFull.DROP:
                return True
            case OnFull.KILL:
                self._exceed(shortage)
                return True
            case OnFull.BLOCK:
                return self._ends_without(shortage.bound)
            case _:
                assert_never(self._on_full)

    def dropped(self, stream: Stream, offset: int, stop: int) -> None:
        """Note what is to be told; called by a spool."""
        gaps = self._dropped[stream]

        if gaps and gaps[-1][1] == offset:
            offset, _ = gaps.pop()

        gaps.append((offset, stop))

    def held_up(self) -> None:
        """Pass on that output is held up, or no more; called by a spool."""
        self._watcher.output_changed()

    def _ends_without(self, bound: Bound) -> bool:
        if bound is Bound.JOB:
            return self._is_over or self._gives_up

        return bound is Bound.SHARED and self._gives_up

    def _exceed(self, shortage: Shortage) -> None:
        if not self._is_exceeded:
            self._is_exceeded = True
            self._watcher.output_exceeded(shortage)

    def _take_dropped(self, stream: Stream, end: int) -> Iterator[Message]:
        """Yield the gaps of *stream* up to *end*, and keep the rest for later."""
        gaps = self._dropped.get(stream, [])

        while gaps and gaps[0][0] < end:
            offset, stop = gaps.pop(0)

            if stop > end:
                gaps.insert(0, (end, stop))
                stop = end

            yield OutputDropped(self._job, stream, offset, stop)

    def _resume(self) -> None:
        for spool in self._spools.values():
            spool.resume()
