"""What one job writes: both streams, their order, their gaps, their digests."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from teleworkerd.jobdir import JobDirectory
from teleworkerd.output.digest import EMPTY, Hasher, StreamDigest
from teleworkerd.output.fanout import Fanout
from teleworkerd.output.gaps import gaps_of, read_gaps
from teleworkerd.output.history import OutputHistory
from teleworkerd.output.index import OutputIndex
from teleworkerd.output.interleave import Interleaving
from teleworkerd.output.subscription import Reading
from teleworkerd.protocol.errors import InvalidRequest, RequestError
from teleworkerd.protocol.status import StreamStatus
from teleworkerd.protocol.types import Stream
from teleworkerd.settings import OutputConfig


_TOLD_WITHIN: Final = 0.02  # seconds from a byte's time until it is in the index
_CLOCK_CHECK: Final = 1.0  # seconds between two looks at the clock
_NEVER: Final = 1 << 64  # ns; later than all records
_AHEAD: Final = 10**9  # ns; how far a clock may be ahead of ours

Position = Mapping[Stream, int]
"""Streams that are read, and the offset in each."""


class JobOutput:
    """The output in *directory*, as far as it has been told of."""

    def __init__(
        self, directory: JobDirectory, config: OutputConfig, hasher: Hasher
    ) -> None:
        self._directory = directory
        self._index = OutputIndex(directory.index)
        self._fanouts: Final = {
            stream: Fanout(
                OutputHistory(
                    stream,
                    directory.spool(stream),
                    window=config.window,
                    chunk=config.chunk,
                ),
                chunk=config.chunk,
                queue_chunks=config.queue_chunks,
            )
            for stream in Stream
        }
        self._hasher = hasher
        self._digests: dict[Stream, StreamDigest] = {}
        self._readings = 0

    @property
    def path(self) -> Path:
        """The directory."""
        return self._directory.path

    @property
    def readers(self) -> int:
        """How many read it."""
        return self._readings

    @property
    def written_bytes(self) -> int:
        """How many bytes both streams have had so far."""
        return sum(fanout.size for fanout in self._fanouts.values())

    @property
    def kept_bytes(self) -> int:
        """How many bytes of both streams are kept."""
        return sum(fanout.size - fanout.dropped for fanout in self._fanouts.values())

    def size(self, stream: Stream) -> int:
        """Return how many bytes *stream* has had so far."""
        return self._fanouts[stream].size

    def status(self, stream: Stream, sha256: bytes | None) -> StreamStatus:
        """Return what is known of *stream*, with its digest as it is known."""
        fanout = self._fanouts[stream]
        return StreamStatus(end=fanout.size, sha256=sha256, dropped=fanout.dropped)

    def restore(self, stdout: int = 0, stderr: int = 0) -> None:
        """Take over what an earlier server left, up to *stdout* and *stderr*."""
        for gap in gaps_of(self._directory, stdout=stdout, stderr=stderr):
            self.drop(gap.stream, gap.offset, gap.stop)

        self.grow(stdout, stderr)

    def recover(self) -> None:
        """Take over all that is there of a job that nobody tells of any more."""
        for gap in read_gaps(self._directory.gaps):
            self.drop(gap.stream, gap.offset, gap.stop)

        ends = {stream: self._recovered(stream) for stream in Stream}
        self._close_unread()
        self.grow(ends[Stream.STDOUT], ends[Stream.STDERR])

    def drop(self, stream: Stream, offset: int, stop: int) -> None:
        """Note that bytes *offset* up to *stop* of *stream* are not kept."""
        self._fanouts[stream].gaps.add(offset, stop)

    def grow(self, stdout: int, stderr: int) -> None:
        """Publish what the spools have now.

        Raises `OSError` when one cannot be read; readers see that at their own
        place in it.
        """
        try:
            self._fanouts[Stream.STDOUT].grow(stdout)
        finally:
            self._fanouts[Stream.STDERR].grow(stderr)

    def hash(self) -> None:
        """Begin, or go on, to compute the digests."""
        for stream, fanout in self._fanouts.items():
            if fanout.size:
                self._digest(stream).grow(fanout.size)

    async def finish(self, stream: Stream) -> bytes:
        """Return the digest of *stream*, which is complete; raises `OSError`."""
        size = self._fanouts[stream].size

        if size == self._fanouts[stream].dropped:
            return EMPTY

        return await self._digest(stream).finish(size)

    def end(self, failure: RequestError | None = None) -> None:
        """Note that nothing will come any more; *failure* is for who still reads."""
        for fanout in self._fanouts.values():
            fanout.end(failure)

        self.close()

    def removing(self, error: RequestError | None) -> None:
        """Have *error* told to readers who find the spools gone; None: no more."""
        for fanout in self._fanouts.values():
            fanout.removal = error

    def close(self) -> None:
        """Give up what goes on beside the loop; the output is of no use after."""
        for digest in self._digests.values():
            digest.cancel()

        self._digests.clear()

    @contextmanager
    def subscribe(
        self,
        position: Position,
        *,
        follow: bool = True,
        since: int | None = None,
        until: int | None = None,
        times: bool = False,
    ) -> Iterator[Reading]:
        """Give a reader its place at *position*: in one stream, or in both.

        Without *follow* it ends at what there is now. *since* and *until* are
        times (ns): what came before the one, or not before the other, is left out.
        Raises `OffsetOutOfRange`, `InvalidRequest` for a *since* to come, and
        `OSError` when we lack what it takes to read.
        """
        for stream, offset in position.items():
            self._fanouts[stream].check(offset)
            # Later a reader would have to wait: it is told at once.
            self._fanouts[stream].check_means()

        if since is not None and since > time.time_ns() + _AHEAD:
            raise InvalidRequest(
                "since lies in the future of the server's clock; give an earlier time"
            )

        ends = {stream: self._fanouts[stream].size for stream in position}
        starts, stops = dict(position), None if follow else ends

        if since is not None:
            starts = _clip(self._at(since, starts), ends)

        # What was not told yet, a reader that follows would miss.
        over = -_TOLD_WITHIN if follow else 0.0

        if until is not None and _seconds_to(until) <= over:
            stops = _clip(self._at(until, starts), stops)

        with self._place(starts, stops, times=times) as reading, ExitStack() as stack:
            if until is not None and stops is None:
                reading.until = until
                ending = asyncio.create_task(self._end_at(until, reading))
                stack.callback(ending.cancel)

            self._readings += 1
            stack.callback(self._leave)
            yield reading

    def _place(
        self, starts: dict[Stream, int], stops: dict[Stream, int] | None, *, times: bool
    ) -> Reading:
        if len(starts) > 1:
            return Interleaving(
                self._fanouts, self._index, offsets=starts, stops=stops, times=times
            )

        [(stream, offset)] = starts.items()
        return self._fanouts[stream].subscribe(
            offset=offset,
            stop=None if stops is None else stops[stream],
            index=self._index if times else None,
        )

    def _at(self, moment: int, position: Position) -> dict[Stream, int]:
        """Return *position*, moved on to where the streams were at *moment*."""
        record = self._index.at_time(moment)
        return {
            stream: max(offset, record.end(stream))
            for stream, offset in position.items()
        }

    async def _end_at(self, moment: int, reading: Reading) -> None:
        """End *reading* where the streams were at *moment*, once that is over."""
        # The clock may be set meanwhile.
        while (wait := _seconds_to(moment) + _TOLD_WITHIN) > 0:  # noqa: ASYNC110 - a clock tells no event
            await asyncio.sleep(min(wait, _CLOCK_CHECK))

        while True:
            try:
                stops = self._at(moment, reading.offsets)
            except OSError:
                # No descriptor is left: until there is one the end is not known.
                await asyncio.sleep(_CLOCK_CHECK)
            else:
                return reading.stop_at(stops)

    def _recovered(self, stream: Stream) -> int:
        """Return how far *stream* went, as its files say."""
        fanout = self._fanouts[stream]

        try:
            kept = self._directory.spool(stream).stat().st_size
        except OSError:
            kept = 0

        # What was dropped at the end stands in the index alone.
        end = self._index.at_time(_NEVER).end(stream)
        is_dropped = not any(fanout.gaps.kept(kept, end))
        return max(fanout.size, kept, end if is_dropped else 0)

    def _leave(self) -> None:
        self._readings -= 1
        self._close_unread()

    def _close_unread(self) -> None:
        if not self._readings:
            self._index.close()

    def _digest(self, stream: Stream) -> StreamDigest:
        if stream not in self._digests:
            self._digests[stream] = StreamDigest(
                self._directory.spool(stream), self._fanouts[stream].gaps, self._hasher
            )

        return self._digests[stream]


def _seconds_to(moment: int) -> float:
    return (moment - time.time_ns()) / 1e9


def _clip(
    position: dict[Stream, int], ends: dict[Stream, int] | None
) -> dict[Stream, int]:
    if ends is None:
        return position

    return {stream: min(offset, ends[stream]) for stream, offset in position.items()}
