"""All bytes of one stream by offset: a window in memory over the spool on disk."""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of output bytes and the offset of the first in its stream."""

    offset: int
    data: bytes

    @property
    def stop(self) -> int:
        """The offset after the last byte."""
        return self.offset + len(self.data)


class OutputHistory:
    """What a stream has held so far, offsets 0 up to `end`.

    The newest bytes, *window* at most, are kept in memory while somebody
    follows; all others are read from the spool at *spool*. Every method but
    `close` may be called at any time; none waits for a job.
    """

    def __init__(self, spool: Path, *, window: int, chunk: int) -> None:
        self.end = 0
        self._spool = spool
        self._limit = window
        self._chunk = chunk
        self._window = bytearray()
        self._window_start = 0
        self._fd: int | None = None

    def extend(self, end: int) -> Iterator[Chunk]:
        """Take in the bytes that the spool now has up to *end*, chunk by chunk.

        `end` of this history grows with each chunk that is yielded. Raises
        `OSError` when the spool cannot be read.
        """
        while self.end < end:
            data = self._pread(self.end, min(self._chunk, end - self.end))
            chunk = Chunk(self.end, data)
            self._window += data
            self.end = chunk.stop
            excess = len(self._window) - self._limit

            if excess > 0:
                del self._window[:excess]
                self._window_start += excess

            yield chunk

    def skip(self, end: int) -> None:
        """Note that the stream now goes up to *end*, without reading it."""
        self.end = end
        self._window.clear()
        self._window_start = end

    def read(self, offset: int, limit: int) -> bytes:
        """Return at most *limit* bytes from *offset* on; empty at the end.

        Fewer may come at any time. Raises `OSError` when the spool cannot be
        read.
        """
        limit = min(limit, self.end - offset)

        if limit <= 0:
            return b""

        if offset < self._window_start:
            return self._pread(offset, min(limit, self._window_start - offset))

        at = offset - self._window_start
        return bytes(self._window[at : at + limit])

    def close(self) -> None:
        """Free memory and descriptor; a later read opens the spool again."""
        self.skip(self.end)

        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _pread(self, offset: int, limit: int) -> bytes:
        if self._fd is None:
            self._fd = os.open(self._spool, os.O_RDONLY | os.O_CLOEXEC)

        data = os.pread(self._fd, limit, offset)

        if not data:
            # Somebody cut it; a reader that went on would miss bytes unawares.
            raise OSError(
                errno.EIO, f"the spool ends before offset {offset}", str(self._spool)
            )

        return data
