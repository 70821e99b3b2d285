"""All bytes of one stream by offset: a window in memory over the spool on disk."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from teleworkerd.output.gaps import Gaps
from teleworkerd.protocol.types import Chunk, Gap, Stream
from teleworkerd.spare import lack_of


class OutputHistory:
    """What *stream* has held so far, offsets 0 up to `end`.

    The newest bytes, *window* at most, are kept in memory while somebody
    follows; all others are read from the spool at *spool*. What was dropped is in
    `gaps`. Every method but `close` may be called at any time; none waits for a
    job.
    """

    def __init__(self, stream: Stream, spool: Path, *, window: int, chunk: int) -> None:
        self.stream = stream
        self.end = 0
        self.gaps = Gaps(stream)
        self._spool = spool
        self._limit = window
        self._chunk = chunk
        # A ring: the byte at offset o is at o % its length, from the start on.
        self._window = bytearray()
        self._window_start = 0
        self._fd: int | None = None

    def check_means(self) -> None:
        """Raise `OSError` when we lack what it takes to read the spool now.

        What is wrong with the spool itself, readers see at their place in it.
        """
        if self._fd is not None:
            return

        try:
            os.close(os.open(self._spool, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            if lack_of(error) is not None:
                raise

    def extend(self, end: int) -> Iterator[Chunk | Gap]:
        """Take in the bytes that the spool now has up to *end*, piece by piece.

        `end` of this history grows with each piece that is yielded. Raises
        `OSError` when the spool cannot be read.
        """
        if not self._window:
            self._window = self._make_window()

        while self.end < end:
            gap, limit = self._at(self.end, min(self._chunk, end - self.end))

            if gap is not None:
                self.end = self._window_start = min(gap.stop, end)
                yield Gap(self.stream, gap.offset, self.end)
                continue

            chunk = Chunk(self.stream, self.end, self._pread(self.end, limit))
            self._remember(chunk)
            self.end = chunk.stop
            self._window_start = max(self._window_start, self.end - self._limit)
            yield chunk

    def skip(self, end: int) -> None:
        """Note that the stream now goes up to *end*, without reading it."""
        self.end = self._window_start = end

    def read(self, offset: int, limit: int) -> Chunk | Gap | None:
        """Return at most *limit* bytes from *offset* on; None at the end.

        Fewer may come at any time. Raises `OSError` when the spool cannot be
        read.
        """
        gap, limit = self._at(offset, min(limit, self.end - offset))

        if limit <= 0:
            return None

        if gap is not None:
            return Gap(self.stream, offset, min(gap.stop, self.end))

        if offset < self._window_start:
            limit = min(limit, self._window_start - offset)
            return Chunk(self.stream, offset, self._pread(offset, limit))

        place = offset % self._limit
        data = bytes(self._window[place : min(place + limit, self._limit)])
        return Chunk(self.stream, offset, data)

    def close(self) -> None:
        """Free memory and descriptor; a later read opens the spool again."""
        self.skip(self.end)
        self._window = bytearray()

        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _at(self, offset: int, limit: int) -> tuple[Gap | None, int]:
        """Return the gap that *offset* is in or, without one, how far it is to one."""
        gap = self.gaps.find(offset)

        if gap is None or gap.offset >= offset + limit:
            return None, limit

        if gap.offset > offset:
            return None, gap.offset - offset

        return Gap(self.stream, offset, gap.stop), limit

    def _remember(self, chunk: Chunk) -> None:
        data = memoryview(chunk.data)[-self._limit :] if self._limit else b""
        place = (chunk.stop - len(data)) % (self._limit or 1)
        first = min(len(data), self._limit - place)
        self._window[place : place + first] = data[:first]
        self._window[: len(data) - first] = data[first:]

    def _make_window(self) -> bytearray:
        try:
            return bytearray(self._limit)
        except MemoryError as error:
            # As what cannot be read: readers go to the spool for it.
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from error

    def _pread(self, offset: int, limit: int) -> bytes:
        if self._fd is None:
            self._fd = os.open(self._spool, os.O_RDONLY | os.O_CLOEXEC)

        try:
            data = os.pread(self._fd, limit, offset)
        except MemoryError as error:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from error

        if not data:
            # Somebody cut it; a reader that went on would miss bytes unawares.
            raise OSError(
                errno.EIO, f"the spool ends before offset {offset}", str(self._spool)
            )

        return data
