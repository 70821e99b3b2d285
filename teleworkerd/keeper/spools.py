"""Both streams of one job, from its pipes into its directory, and the news of them."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Final, Protocol, assert_never

from teleworkerd.jobdir import JobDirectory, open_new
from teleworkerd.keeper.messages import OutputDropped, OutputGrown, OutputHeldUp
from teleworkerd.keeper.quota import Bound, Share, Shortage
from teleworkerd.keeper.records import GapFile, SpoolIndex
from teleworkerd.keeper.spool import Books, Spool
from teleworkerd.protocol.messages import Message
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.types import OnFull, Stream
from teleworkerd.reserve import Reserve
from teleworkerd.settings import OutputConfig
from teleworkerd.spare import Spare


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

    *share* is the room that there is for them, *reserve* that for their last records
    on a full disk, *spare* what these take if nothing can be opened. Raises `OSError`
    when the files or pipes cannot be made.
    """

    def __init__(  # noqa: PLR0913  all that it works with
        self,
        directory: JobDirectory,
        spec: JobSpec,
        *,
        config: OutputConfig,
        share: Share,
        reserve: Reserve,
        spare: Spare,
        watcher: SpoolsWatcher,
    ) -> None:
        self._job = directory.path.name
        self._on_full = spec.on_full or config.on_full
        self._reserve = reserve
        self._spare = spare
        self._watcher = watcher
        self._is_exceeded = False
        self._given_up: frozenset[Bound] = frozenset()
        self._has_room = False
        self._has_waited = False
        self._dropped: dict[Stream, list[tuple[int, int]]] = {}
        self._spools: dict[Stream, Spool] = {}

        with contextlib.ExitStack() as stack:
            self._index = SpoolIndex(directory, grown=watcher.output_changed)
            stack.callback(self._index.close)
            may_drop = self._on_full is not OnFull.BLOCK
            self._gaps = GapFile(directory, reserve=may_drop)
            stack.callback(self._gaps.close)
            books = Books(self._index, self._gaps, share, spare.null)

            for stream in Stream:
                if spec.is_merged and stream is Stream.STDERR:
                    # The job's stderr is the pipe, or terminal, of its stdout.
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

    def has_waited(self) -> bool:
        """Whether output waits for room, or did since this was asked last."""
        has_waited = self._has_waited
        self._has_waited = self.why_held_up is not None
        return has_waited

    def dropped_of(self, stream: Stream) -> int:
        """Return how many bytes of *stream*, as far as `ends` go, were not kept."""
        if stream not in self._spools:
            return 0

        gaps, end = self._dropped[stream], self._index.recorded.end(stream)
        beyond = sum(max(stop - max(start, end), 0) for start, stop in gaps)
        return self._spools[stream].dropped - beyond

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

    def give_up(self, *bounds: Bound) -> None:
        """Wait no more, from now on, for room that one of *bounds* leaves none of.

        What has none is dropped, or cut off where the disk does not even take that.
        """
        self._given_up |= frozenset(bounds)

        for spool in self._spools.values():
            spool.resume()

    async def ended(self) -> None:
        """Wait until both pipes are at their end."""
        for spool in self._spools.values():
            await spool.ended.wait()

    async def settle(self) -> bool:
        """Take no more, and wait until index and gaps say everything.

        Returns false when something is missing for a fault that was given up.
        """
        is_told = False

        for spool in self._spools.values():
            spool.close()

        while True:
            try:
                self._reserve.spend(self._write_last)
            except (OSError, MemoryError) as error:
                if Shortage.of(error).bound is Bound.FAULT and self._gives_up_faults:
                    log.error("job %s: its index is not whole: %s", self._job, error)
                    return False

                if not is_told:
                    log.error("job %s: its index must wait: %s", self._job, error)

                is_told = True
                await asyncio.sleep(_SETTLE_RETRY)
            else:
                return not any(spool.is_cut for spool in self._spools.values())

    def close(self) -> None:
        """Close everything; twice is no harm."""
        self._stack.close()

    def may_drop(self, shortage: Shortage) -> bool:
        """Whether bytes that have no room are to be dropped; called by a spool."""
        if shortage.bound is Bound.LACK:
            return False

        if Bound.DISK in self._given_up:
            self._make_room()

        if shortage.bound is Bound.FAULT:
            return self._gives_up_faults

        match self._on_full:
            case OnFull.DROP:
                return True
            case OnFull.KILL:
                self._exceed(shortage)
                return True
            case OnFull.BLOCK:
                return shortage.bound in self._given_up
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
        self._has_waited = True
        self._watcher.output_changed()

    @property
    def _gives_up_faults(self) -> bool:
        return Bound.FAULT in self._given_up

    def _make_room(self) -> None:
        """Have room for the records of what is dropped, and the file for them."""
        if not self._has_room:
            # Without it, dropping fails for now, and is tried again.
            with contextlib.suppress(OSError), self._spare.lent():
                self._reserve.spend(self._gaps.make_room)
                self._has_room = True

    def _write_last(self) -> None:
        self._index.settle()

        for stream, spool in self._spools.items():
            self._gaps.settle(stream, spool.end)

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
