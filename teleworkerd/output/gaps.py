"""Which bytes of a stream were dropped, and the file that says so.

The file, there once something was dropped, has records of 24 bytes, little-endian:
offset and stop of the gap (u64 each), the stream (u8: 0 stdout, 1 stderr), seven zero
bytes. A gap that grows is written over itself. Zeros stand for no gap: the file may
have been made longer than it is, so that a full disk has room for it.
"""

import bisect
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from teleworkerd.jobdir import JobDirectory
from teleworkerd.protocol.types import Gap, Stream
from teleworkerd.spare import lack_of


RECORD: Final = struct.Struct("<QQB7x")

_ENDLESS: Final = 1 << 63  # more than any offset
_STREAMS: Final = (Stream.STDOUT, Stream.STDERR)


def pack_gap(gap: Gap) -> bytes:
    """Return *gap* as it stands in the file."""
    return RECORD.pack(gap.offset, gap.stop, _STREAMS.index(gap.stream))


def read_gaps(
    path: Path, *, stdout: int = _ENDLESS, stderr: int = _ENDLESS
) -> Iterator[Gap]:
    """Yield the gaps in the file at *path*, up to the ends of the streams.

    None if there is no file. A record that makes no sense, as a crash may leave
    one, is passed over; beyond the end of its stream one may say too much. Raises
    `OSError` when we lack what it takes to look.
    """
    ends = (stdout, stderr)

    try:
        data = path.read_bytes()
    except OSError as error:
        if lack_of(error) is not None:
            raise

        return

    for offset, stop, number in RECORD.iter_unpack(
        data[: len(data) - len(data) % RECORD.size]
    ):
        if number < len(_STREAMS) and offset < (end := min(stop, ends[number])):
            yield Gap(_STREAMS[number], offset, end)


def gaps_of(directory: JobDirectory, *, stdout: int, stderr: int) -> Iterator[Gap]:
    """Yield the gaps of a job whose streams went up to these ends.

    Beside those on record it is what the spools lack at their ends: a power failure
    takes what was written last.
    """
    yield from read_gaps(directory.gaps, stdout=stdout, stderr=stderr)

    for stream, end in zip(_STREAMS, (stdout, stderr), strict=True):
        try:
            size = directory.spool(stream).stat().st_size
        except FileNotFoundError:
            size = 0
        except OSError:
            continue  # nobody knows; readers will see

        if size < end:
            yield Gap(stream, size, end)


class Gaps:
    """The gaps of one stream, in order, none touching another."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._gaps: list[Gap] = []
        self._dropped = 0

    def add(self, offset: int, stop: int) -> None:
        """Note that bytes *offset* up to *stop* are missing; again is no harm."""
        first = bisect.bisect_left(self._gaps, offset, key=lambda gap: gap.stop)
        last = bisect.bisect_right(self._gaps, stop, key=lambda gap: gap.offset)
        touched = self._gaps[first:last]

        if touched:
            offset = min(offset, touched[0].offset)
            stop = max(stop, touched[-1].stop)

        self._gaps[first:last] = [Gap(self._stream, offset, stop)]
        self._dropped += stop - offset - sum(gap.stop - gap.offset for gap in touched)

    def before(self, end: int) -> int:
        """Return how many bytes before *end* are missing.

        Gaps may be known before the stream is known to go that far.
        """
        missing = self._dropped

        for gap in reversed(self._gaps):
            if gap.stop <= end:
                break

            missing -= gap.stop - max(gap.offset, end)

        return missing

    def find(self, offset: int) -> Gap | None:
        """Return the gap that holds *offset* or, failing that, the next one."""
        place = bisect.bisect_right(self._gaps, offset, key=lambda gap: gap.stop)
        return self._gaps[place] if place < len(self._gaps) else None

    def kept(self, offset: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the runs of *offset* up to *stop* that are not missing."""
        while offset < stop:
            gap = self.find(offset)
            end = stop if gap is None else min(stop, gap.offset)

            if offset < end:
                yield offset, end

            offset = stop if gap is None else max(end, gap.stop)
