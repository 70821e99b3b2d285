"""Whether what was read is what the job wrote: SHA-256 beside the event loop."""

import asyncio
import hashlib
import queue
import threading
from typing import Final

from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.types import Chunk, Gap, JobStatus, Stream, StreamStatus


SMALL: Final = 32 << 10  # bytes; hashed in less time than a thread needs to wake
ROUND: Final = 1 << 20  # bytes given to the thread until it must have had the last


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

    Much is hashed on a thread of its own, which is at most two `ROUND`s behind.
    `close` ends it.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._offset = 0
        self._sha256 = hashlib.sha256()
        self._worker: _Worker | None = None
        self._small: list[bytes] = []  # what waits until it is worth a thread's waking
        self._small_size = 0

    async def add(self, item: Chunk | Gap) -> None:
        """Take what comes next; waits if the thread is far behind."""
        self._offset = item.stop

        if isinstance(item, Gap):
            return

        size = len(item.data)

        if self._worker is None and size < SMALL:
            self._sha256.update(item.data)
            return

        self._small.append(item.data)
        self._small_size += size

        if self._small_size >= SMALL:
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
        if not self._small:
            return

        if self._worker is None:
            self._worker = _Worker(self._sha256)

        work = self._small[0] if len(self._small) == 1 else b"".join(self._small)
        self._small, self._small_size = [], 0
        await self._worker.put(work)


class _Worker:
    """A thread that hashes; a daemon, so that no program waits for it."""

    def __init__(self, sha256: "hashlib._Hash") -> None:
        self._sha256 = sha256
        self._work: queue.SimpleQueue[bytes | asyncio.Future[None] | None]
        self._work = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._mark: asyncio.Future[None] | None = None
        self._given = 0  # bytes since the mark
        threading.Thread(target=self._run, daemon=True).start()

    async def put(self, data: bytes) -> None:
        self._work.put(data)
        self._given += len(data)

        if self._given >= ROUND:
            await self.finish(behind=True)

    async def finish(self, *, behind: bool = False) -> None:
        """Return when all is hashed or, if *behind*, all up to the last such call."""
        before, self._mark = self._mark, self._loop.create_future()
        self._work.put(self._mark)
        self._given = 0

        if not behind:
            await self._mark
        elif before is not None:
            await before

    def close(self) -> None:
        self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            if isinstance(work, bytes):
                self._sha256.update(work)
                continue

            try:
                self._loop.call_soon_threadsafe(_settle, work)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return


def stream_status(status: JobStatus, stream: Stream) -> StreamStatus:
    """Return what *status* says of *stream*."""
    return status.stdout if stream is Stream.STDOUT else status.stderr


def _settle(mark: asyncio.Future[None]) -> None:
    if not mark.done():
        mark.set_result(None)
