"""The small files beside a job's spools: the index, and the gaps if there are any."""

import asyncio
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from teleworkerd.jobdir import JobDirectory, open_new
from teleworkerd.output.gaps import RECORD, pack_gap
from teleworkerd.output.index import START, IndexRecord
from teleworkerd.protocol.types import Gap, Stream


_RETRY: Final = 1.0  # seconds until a record that could not be written is tried again
_RESERVE: Final = 4096  # bytes; a block of most disks
_LAZY: Final = 1.0  # seconds between two records of bytes that are thrown away


class RecordFile:
    """A file of records of one size at *path*, made when the first is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def open(self) -> int:
        """Return the descriptor of the file, made now if need be; raises `OSError`."""
        if self._fd is None:
            self._fd = open_new(self._path)

        return self._fd

    def write(self, place: int, record: bytes) -> None:
        """Write the record number *place*; raises `OSError`.

        A full disk may take half of it: write that number again.
        """
        if os.pwrite(self.open(), record, place * len(record)) != len(record):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def reserve(self, size: int) -> None:
        """Take *size* bytes of the disk now, as zeros; raises `OSError`."""
        os.posix_fallocate(self.open(), 0, size)

    def close(self) -> None:
        """Close the file; twice is no harm."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class SpoolIndex:
    """The index file that a job's two spools share.

    `recorded` is its last record: what others may be told. *grown* is called
    each time that it has changed. A record that cannot be written is tried again;
    the next one says as much. Raises `OSError` when the file cannot be made.
    """

    def __init__(self, directory: JobDirectory, *, grown: Callable[[], None]) -> None:
        self.recorded = START
        self._grown = grown
        self._file = RecordFile(directory.index)
        self._file.open()
        self._count = 0
        self._ends = dict.fromkeys(Stream, 0)
        self._lazy_until = 0.0
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def kept(self, stream: Stream, end: int) -> None:
        """Record that *stream* goes up to *end* now."""
        self._ends[stream] = end
        self._write()

    def dropped(self, stream: Stream, end: int) -> None:
        """Record soon that *stream* goes up to *end*, of bytes that are not kept.

        What a job may write without end must not fill the disk by its records.
        """
        self._ends[stream] = end
        rest = self._lazy_until - self._loop.time()

        if rest <= 0:
            self._lazy_until = self._loop.time() + _LAZY
            self._write()
        elif self._timer is None:
            self._timer = self._loop.call_later(rest, self._try_again)

    def settle(self) -> None:
        """Have the file say everything; raises `OSError`."""
        stdout, stderr = self._ends[Stream.STDOUT], self._ends[Stream.STDERR]

        if (self.recorded.stdout, self.recorded.stderr) == (stdout, stderr):
            return

        # The wall clock may step back; readers search the times by halving.
        now = max(time.time_ns(), self.recorded.time)
        record = IndexRecord(now, stdout, stderr)
        self._file.write(self._count, record.pack())
        self._count += 1
        self.recorded = record
        self._cancel_timer()
        self._grown()

    def close(self) -> None:
        """Close the file."""
        self._cancel_timer()
        self._file.close()

    def _write(self) -> None:
        try:
            self.settle()
        except (OSError, MemoryError):
            if self._timer is None:
                self._timer = self._loop.call_later(_RETRY, self._try_again)

    def _try_again(self) -> None:
        self._timer = None
        self._write()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class GapFile:
    """The file that says which bytes of a job were dropped.

    The order is: `claim` what is about to be dropped, drop it, and `settle` before
    anything is kept. So whatever ends the keeper in between, a hole in a spool has its
    record; a record may say more than was dropped only beyond the stream's end.
    With *reserve* there is room for the first records on a full disk too. Raises
    `OSError`.
    """

    def __init__(self, directory: JobDirectory, *, reserve: bool = False) -> None:
        self._file = RecordFile(directory.gaps)

        self._count = 0

        if reserve:
            self.make_room()

        self._last: dict[Stream, tuple[int, Gap]] = {}

    def claim(self, stream: Stream, offset: int, stop: int) -> None:
        """Say that bytes *offset* up to *stop* are missing; raises `OSError`."""
        place, last = self._last.get(stream, (self._count, None))

        if last is not None and offset <= last.stop:
            self._write(place, Gap(stream, last.offset, stop))
        else:
            self._write(self._count, Gap(stream, offset, stop))

    def settle(self, stream: Stream, end: int) -> None:
        """Say that nothing from *end* on is missing; raises `OSError`."""
        if stream in self._last:
            place, last = self._last[stream]

            if last.stop > end:
                self._write(place, Gap(stream, last.offset, end))

    def make_room(self) -> None:
        """Take room for more records from the disk now; raises `OSError`."""
        self._file.reserve(self._count * RECORD.size + _RESERVE)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, place: int, gap: Gap) -> None:
        self._file.write(place, pack_gap(gap))
        self._count = max(self._count, place + 1)
        self._last[gap.stream] = (place, gap)
