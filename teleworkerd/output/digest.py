"""The SHA-256 of a stream, computed on threads beside the event loop."""

import asyncio
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from teleworkerd.output.gaps import Gaps
from teleworkerd.spare import Spare, lack_of, started_threads


log = logging.getLogger(__name__)

_STEP: Final = 4 << 20  # bytes; less waits, more is done piece by piece
_BLOCK: Final = 1 << 20  # bytes read at once
_RETRY: Final = 0.5  # seconds until what lacked memory or a descriptor is tried again

EMPTY: Final = hashlib.sha256(b"").digest()


class Hasher:
    """The threads that all digests share; `close` waits for what they do.

    The descriptors of *spare* are taken when there are no others. Raises
    `NoThreads`.
    """

    def __init__(self, threads: int | None = None, spare: Spare | None = None) -> None:
        self._spare = spare
        self.threads: Final = started_threads(
            threads or min(4, os.cpu_count() or 1), name="hash"
        )

    def open(self, spool: Path) -> int:
        """Return a descriptor that reads *spool*; raises `OSError`."""
        try:
            return os.open(spool, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if self._spare is None or lack_of(error) is None:
                raise

        self._spare.free()
        return os.open(spool, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """End the threads; what was not begun is not done."""
        self.threads.shutdown(cancel_futures=True)


class StreamDigest:
    """The digest of what the spool at *spool* keeps, which may be growing.

    Bytes in *gaps* do not count: they are not there. Reads the spool, so that
    neither a reader's speed nor the loop's has to do with it.
    """

    def __init__(self, spool: Path, gaps: Gaps, hasher: Hasher) -> None:
        self._spool = spool
        self._gaps = gaps
        self._hasher = hasher
        self._sha256 = hashlib.sha256()
        self._done = 0
        self._end = 0
        self._failure: OSError | None = None
        self._lack: str | None = None
        self._task: asyncio.Task[None] | None = None

    def grow(self, end: int) -> None:
        """Note that the stream goes up to *end*; never waits."""
        self._end = end

        if self._task is None and self._failure is None and end - self._done >= _STEP:
            self._task = asyncio.create_task(self._catch_up(_STEP))

    async def finish(self, end: int) -> bytes:
        """Return the digest of all up to *end*, the last; raises `OSError`.

        Waits for as long as there is no memory or no descriptor for it.
        """
        self._end = end

        if self._task is not None:
            await self._task

        await self._catch_up(1)

        if self._lack is not None:
            log.error("%s is hashed later: %s", self._spool, self._lack)

        while self._lack is not None:
            await asyncio.sleep(_RETRY)
            await self._catch_up(1)

        if self._failure is not None:
            raise self._failure

        return self._sha256.digest()

    def cancel(self) -> None:
        """Give up; what a thread is doing comes to its end."""
        if self._task is not None:
            self._task.cancel()

    async def _catch_up(self, least: int) -> None:
        loop = asyncio.get_running_loop()
        threads = self._hasher.threads

        try:
            while self._end - self._done >= least and self._failure is None:
                runs, stop = self._next_step()

                if runs:
                    await loop.run_in_executor(threads, self._hash, runs)

                self._done = stop

            self._lack = None
        except (OSError, MemoryError) as error:
            self._lack = lack_of(error)

            if isinstance(error, OSError) and self._lack is None:
                self._failure = error
        finally:
            self._task = None

    def _next_step(self) -> tuple[list[tuple[int, int]], int]:
        """Return what to take in next, and how far that goes; gaps cost nothing."""
        runs: list[tuple[int, int]] = []
        room = _STEP

        for offset, stop in self._gaps.kept(self._done, self._end):
            runs.append((offset, min(stop, offset + room)))
            room -= runs[-1][1] - offset

            if not room:
                return runs, runs[-1][1]

        return runs, self._end

    def _hash(self, runs: list[tuple[int, int]]) -> None:
        """Take in all of *runs*, or nothing; on a thread."""
        block = bytearray(_BLOCK)
        sha256 = self._sha256.copy()
        fd = self._hasher.open(self._spool)

        try:
            for offset, stop in runs:
                for piece in self._read(fd, offset, stop, memoryview(block)):
                    sha256.update(piece)
        finally:
            os.close(fd)

        self._sha256 = sha256

    def _read(
        self, fd: int, offset: int, stop: int, block: memoryview
    ) -> Iterator[memoryview]:
        while offset < stop:
            size = os.preadv(fd, [block[: stop - offset]], offset)

            if not size:
                raise OSError(f"{self._spool} ends before offset {offset}")

            yield block[:size]
            offset += size
