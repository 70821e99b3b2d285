"""Whether what was read is what the job wrote: SHA-256 beside the event loop."""

import asyncio
import hashlib
import queue
import threading
from typing import Final

from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.status import JobStatus, StreamStatus
from teleworkerd.protocol.types import Chunk, Gap, Stream


SMALL: Final = 32 << 10  # bytes; hashed in less time than a thread needs to wake
BATCH: Final = 1 << 20  # bytes for which a thread is woken: it costs the loop a wait


_Work = tuple[list[bytes], asyncio.Future[None]]


class DigestMismatch(TeleworkerError):
    """What was read of *stream* is not what the server says that the job wrote.

    *size* bytes were read up to *offset*; *expected* and *got* are SHA-256.
    """

    def __init__(  # noqa: PLR0913 - the facts
        self,
        *,
        job: str,
        stream: Stream,
        offset: int,
        end: int,
        expected: bytes,
        got: bytes,
    ) -> None:
        what = (
            f"{offset} of {end} bytes came"
            if offset != end
            else f"the SHA-256 is {got.hex()} and not {expected.hex()}"
        )
        super().__init__(
            f"what was read of {stream} of job {job} is not what the job wrote:"
            f" {what}; do not use it, and read it again: if that fails too, the"
            " server's copy is damaged"
        )
        self.stream = stream
        self.offset = offset
        self.expected = expected
        self.got = got


class Digest:
    """The SHA-256 of one stream that is read from its first byte on.

    Much is hashed on a thread of its own, which is at most two batches behind.
    `close` ends it.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._offset = 0
        self._sha256 = hashlib.sha256()
        self._worker: _Worker | None = None
        self._batch: list[bytes] = []  # what waits until it is worth a thread's waking
        self._batch_size = 0

    async def add(self, item: Chunk | Gap) -> None:
        """Take what comes next; waits if the thread is far behind."""
        self._offset = item.stop

        if isinstance(item, Gap):
            return

        size = len(item.data)

        if self._worker is None and not self._batch and size < SMALL:
            self._sha256.update(item.data)
            return

        self._batch.append(item.data)
        self._batch_size += size

        if self._batch_size >= BATCH:
            await self._flush()

    async def check(self, status: JobStatus) -> bool:
        """Compare with the last status of the job that was read to its end.

        Returns False when the server does not tell a digest. Raises
        `DigestMismatch`.
        """
        known = stream_status(status, self._stream)

        if known.sha256 is None:
            return False

        await self._flush()

        if self._worker is not None:
            await self._worker.finish()

        if self._offset != known.end or self._sha256.digest() != known.sha256:
            raise DigestMismatch(
                job=status.id,
                stream=self._stream,
                offset=self._offset,
                end=known.end,
                expected=known.sha256,
                got=self._sha256.digest(),
            )

        return True

    def close(self) -> None:
        """Hash no more."""
        if self._worker is not None:
            self._worker.close()

    async def _flush(self) -> None:
        if not self._batch:
            return

        if self._worker is None:
            self._worker = _Worker(self._sha256)

        batch, self._batch, self._batch_size = self._batch, [], 0
        await self._worker.put(batch)


class _Worker:
    """A thread that hashes; a daemon, so that no program waits for it."""

    def __init__(self, sha256: "hashlib._Hash") -> None:
        self._sha256 = sha256
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._last: asyncio.Future[None] | None = None
        threading.Thread(target=self._run, daemon=True).start()

    async def put(self, batch: list[bytes]) -> None:
        """Have *batch* hashed; returns when the one before has been."""
        before, self._last = self._last, self._loop.create_future()
        self._work.put((batch, self._last))

        if before is not None:
            await before

    async def finish(self) -> None:
        """Return when all is hashed."""
        if self._last is not None:
            await self._last

    def close(self) -> None:
        self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            batch, done = work

            for data in batch:
                self._sha256.update(data)

            try:
                self._loop.call_soon_threadsafe(_settle, done)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return


def stream_status(status: JobStatus, stream: Stream) -> StreamStatus:
    """Return what *status* says of *stream*."""
    return status.stdout if stream is Stream.STDOUT else status.stderr


def _settle(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
