"""The SHA-256 of a stream, computed on threads beside the event loop."""

import asyncio
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from teleworkerd.output.gaps import Gaps


_STEP: Final = 4 << 20  # bytes; less waits, more is done piece by piece
_BLOCK: Final = 1 << 20  # bytes read at once

EMPTY: Final = hashlib.sha256(b"").digest()


class Hasher:
    """The threads that all digests share; `close` waits for what they do."""

    def __init__(self, threads: int | None = None) -> None:
        self.threads: Final = ThreadPoolExecutor(
            threads or min(4, os.cpu_count() or 1), thread_name_prefix="hash"
        )

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
        self._threads = hasher.threads
        self._sha256 = hashlib.sha256()
        self._done = 0
        self._end = 0
        self._failure: OSError | None = None
        self._task: asyncio.Task[None] | None = None

    def grow(self, end: int) -> None:
        """Note that the stream goes up to *end*; never waits."""
        self._end = end

        if self._task is None and self._failure is None and end - self._done >= _STEP:
            self._task = asyncio.create_task(self._catch_up(_STEP))

    async def finish(self, end: int) -> bytes:
        """Return the digest of all up to *end*, the last; raises `OSError`."""
        self._end = end

        if self._task is not None:
            await self._task

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

        try:
            while self._end - self._done >= least and self._failure is None:
                runs, stop = self._next_step()

                if runs:
                    await loop.run_in_executor(self._threads, self._hash, runs)

                self._done = stop
        except OSError as error:
            # Some of the bytes may have been taken in: there is no going on.
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
        block = bytearray(_BLOCK)
        fd = os.open(self._spool, os.O_RDONLY | os.O_CLOEXEC)

        try:
            for offset, stop in runs:
                self._hash_run(fd, offset, stop, memoryview(block))
        finally:
            os.close(fd)

    def _hash_run(self, fd: int, offset: int, stop: int, block: memoryview) -> None:
        while offset < stop:
            size = os.preadv(fd, [block[: stop - offset]], offset)

            if not size:
                raise OSError(f"{self._spool} ends before offset {offset}")

            self._sha256.update(block[:size])
            offset += size
