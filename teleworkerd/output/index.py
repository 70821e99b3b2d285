"""The index beside a job's spools: how far both streams were, and when.

One record of 24 bytes for each move from a pipe to its spool, little-endian: the
time (u64, ns since the epoch) and the ends of stdout and of stderr after the move
(u64 each). None of the three ever falls, so each can be searched for by halving.
Where both ends grew, the bytes of stdout came first.
"""

import bisect
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, overload

from teleworkerd.protocol.types import Stream
from teleworkerd.spare import lack_of


RECORD: Final = struct.Struct("<QQQ")

_READ: Final = 1024  # records at once, in a walk
_FEW: Final = 16  # records at once, where the next one of a stream may be far
_DENSE: Final = 8  # records for each of a stream, at most, to go on without a search
_LOOKS: Final = 64  # reads for the times of one chunk; nobody else has a turn meanwhile


@dataclass(frozen=True, slots=True)
class IndexRecord:
    """At *time* the streams went up to *stdout* and *stderr*."""

    time: int
    stdout: int
    stderr: int

    def pack(self) -> bytes:
        """Return the record as it stands in the file."""
        return RECORD.pack(self.time, self.stdout, self.stderr)

    def end(self, stream: Stream) -> int:
        """Return how far *stream* went."""
        return self.stdout if stream is Stream.STDOUT else self.stderr


START: Final = IndexRecord(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Step:
    """What one record adds to one stream: bytes *offset* up to *stop*, at *time*."""

    time: int
    stream: Stream
    offset: int
    stop: int


class OutputIndex(Sequence[IndexRecord]):
    """The records at *path*, which may be growing; a context manager.

    A record that is only half there, the last one, does not count, nor do zeros at
    the end, which a power failure may leave. What cannot be read is as if it were not
    there: then only times and order are missing. Raises `OSError` when we lack what
    it takes to look.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None
        self._size = 0  # of the file, in records, when it was looked at last …
        self._count = 0  # … and how many of these count

    def __len__(self) -> int:
        fd = self._open()
        size = 0 if fd is None else os.fstat(fd).st_size // RECORD.size

        if size != self._size:
            self._size, self._count = size, self._without_zeros(size)

        return self._count

    @overload
    def __getitem__(self, at: int) -> IndexRecord: ...

    @overload
    def __getitem__(self, at: slice) -> "list[IndexRecord]": ...

    def __getitem__(self, at: int | slice) -> "IndexRecord | list[IndexRecord]":
        if isinstance(at, slice):
            start, stop, _ = at.indices(len(self))
            return self._read(start, stop - start)

        found = self._read(at, 1) if 0 <= at < len(self) else []

        if not found:
            raise IndexError(at)

        return found[0]

    def at_time(self, time: int) -> IndexRecord:
        """Return how far the streams were before *time*: `START` if nowhere."""
        try:
            place = bisect.bisect_left(self, time, key=lambda record: record.time)
            return self[place - 1] if place else START
        except IndexError:  # it cannot be read
            return START

    def steps(self, stdout: int, stderr: int) -> Iterator[Step | None]:
        """Yield what was added from these ends on, in order, as far as is known.

        None in between is no end: much was read, and others may have their turn.
        """
        place = self._first(stdout, stderr)

        while records := self[place : place + _READ]:
            place += len(records)

            if records[-1].stdout <= stdout and records[-1].stderr <= stderr:
                # One end may lie far behind the other, with nothing in between.
                place = max(place, self._first(stdout, stderr))
                continue

            for record in records:
                if record.stdout > stdout:
                    yield Step(record.time, Stream.STDOUT, stdout, record.stdout)
                    stdout = record.stdout

                if record.stderr > stderr:
                    yield Step(record.time, Stream.STDERR, stderr, record.stderr)
                    stderr = record.stderr

            if len(records) == _READ:
                yield None

    def times(
        self, stream: Stream, offset: int, stop: int, *, most: int
    ) -> tuple[list[tuple[int, int]], int]:
        """Return when bytes *offset* up to *stop* came: offset and time of each run.

        And how far that is told: less than *stop* where there would be more than
        *most* runs, or where they are far between.
        """
        runs: list[tuple[int, int]] = []
        place, size = self._place(stream, offset), _FEW

        for _ in range(_LOOKS):
            records = self[place : place + size]
            known = len(runs)

            for record in records:
                if offset >= stop:
                    return runs, stop

                if (end := record.end(stream)) > offset:
                    if len(runs) == most:
                        return runs, offset

                    runs.append((offset, record.time))
                    offset = end

            if len(records) < size:
                return runs, stop

            place += size

            if len(runs) - known > size // _DENSE:
                size = _READ
            else:
                # The other stream may have had very much in between.
                place, size = max(place, self._place(stream, offset)), _FEW

        return runs, min(offset, stop)

    def close(self) -> None:
        """Give back the descriptor; a later read opens the file again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _first(self, stdout: int, stderr: int) -> int:
        """Return the place of the first record that goes beyond one of these ends."""
        return min(
            self._place(Stream.STDOUT, stdout), self._place(Stream.STDERR, stderr)
        )

    def _place(self, stream: Stream, offset: int) -> int:
        """Return the place of the first record that goes beyond *offset*."""
        try:
            return bisect.bisect_right(self, offset, key=lambda each: each.end(stream))
        except IndexError:  # it cannot be read
            return len(self)

    def _without_zeros(self, count: int) -> int:
        """Return how many of *count* records there are before zeros at the end."""
        if not self._falls(count):
            return count

        # By halving: there are no others among those that were written.
        zeros = bisect.bisect_left(range(count), True, key=self._is_zero)
        # The one before may be torn, where a block of the disk ends.
        return zeros - 1 if self._falls(zeros) else zeros

    def _falls(self, count: int) -> bool:
        """Whether the last of *count* records is less than the one before, or zero."""
        records = self._read(max(count - 2, 0), min(count, 2))

        if not records:
            return False

        before, last = [START, *records][-2:]
        return (
            last == START
            or last.time < before.time
            or last.stdout < before.stdout
            or last.stderr < before.stderr
        )

    def _is_zero(self, place: int) -> bool:
        return self._read(place, 1) in ([], [START])

    def _read(self, place: int, count: int) -> list[IndexRecord]:
        fd = self._open()

        if fd is None or count <= 0:
            return []

        try:
            data = os.pread(fd, count * RECORD.size, place * RECORD.size)
        except OSError:
            return []

        whole = len(data) - len(data) % RECORD.size
        return [IndexRecord(*fields) for fields in RECORD.iter_unpack(data[:whole])]

    def _open(self) -> int | None:
        if self._fd is None:
            try:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                if lack_of(error) is not None:
                    raise

                return None

        return self._fd
