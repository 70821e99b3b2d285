"""One reader's place in one stream."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Protocol, Self

from teleworkerd.output.index import OutputIndex
from teleworkerd.protocol.errors import RequestError
from teleworkerd.protocol.messages import MAX_CHUNK, MAX_TIMES
from teleworkerd.protocol.types import Gap, Piece, Stream


class Source(Protocol):
    """What a subscription reads: a stream, as far as it has come."""

    ended: bool
    failure: RequestError | None

    @property
    def stream(self) -> Stream:
        """Which of the two it is."""

    @property
    def size(self) -> int:
        """How many bytes the stream has had so far."""

    def read(self, offset: int, limit: int) -> Piece | None:
        """Return what comes at *offset*, at most *limit* bytes; None at the end."""


class Reading(ABC):
    """A place in what a job writes; a context manager that gives it up.

    From the time `until` (ns) on nothing more comes, and it waits for `stop_at`.
    """

    until: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether it is time for `stop_at` to say where the end is."""
        return self.until is not None and time.time_ns() >= self.until

    @property
    @abstractmethod
    def offsets(self) -> dict[Stream, int]:
        """Where the next piece of each stream that is read begins."""

    @abstractmethod
    async def ready(self) -> bool:
        """Wait until `take` has something; False once all has been taken.

        Others have a turn before each piece of the history: there may be very much
        of it, and a client that takes it at once. Nothing is read from the history
        yet: a reader that then waits for its client holds no more than its queue.
        Raises `JobRemoved`.
        """

    @abstractmethod
    def take(self, limit: int) -> Piece | None:
        """Return what `ready` found, at most *limit* (> 0) bytes of it.

        None when the end has come closer meanwhile: see whether it is `ready`.
        Raises `OSError` when the spool cannot be read, `JobRemoved`.
        """

    @abstractmethod
    def wake(self) -> None:
        """Let a waiting reader look again."""

    @abstractmethod
    def stop_at(self, stops: dict[Stream, int]) -> None:
        """End there, unless the reader is further; there is no `until` any more."""

    @abstractmethod
    def close(self) -> None:
        """Read no more; twice is no harm."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Subscription(Reading):
    """A place in one stream.

    New pieces come through a bounded queue. A reader that has just come, or
    whose queue was full, is *behind* and reads from the history by offset until
    it has caught up, so that replay, resume and slow reader are one path. Where
    there is an *index*, chunks say when their bytes came.
    """

    def __init__(  # noqa: PLR0913 - what a place in a stream is made of
        self,
        source: Source,
        *,
        offset: int,
        stop: int | None,
        queue_chunks: int,
        closed: Callable[["Subscription"], None],
        index: OutputIndex | None = None,
    ) -> None:
        self.offset = offset
        self._source = source
        self._stop = stop
        self._queue: asyncio.Queue[Piece | None] = asyncio.Queue(queue_chunks)
        self._next: Piece | None = None
        self._behind = True
        self._closed = closed
        self._index = index

    @property
    def offsets(self) -> dict[Stream, int]:
        return {self._source.stream: self.offset}

    @property
    def is_behind(self) -> bool:
        """Whether pieces of the future would not reach this queue."""
        return self._behind

    async def ready(self) -> bool:
        while True:
            if self._source.failure is not None:
                raise self._source.failure

            if self._is_at_stop:
                return False

            if self.is_held:
                # What we have may lie beyond the end; the history has it all.
                self._next = None
                self._clear()
                await self._queue.get()
            elif self._next is not None:
                return True
            elif not self._queue.empty():
                self._next = self._queue.get_nowait()
            elif self._behind and self.offset < self._source.size:
                await asyncio.sleep(0)
                return True
            elif self._behind:
                # Caught up: the next piece is offered to us.
                self._behind = False
            elif self._source.ended:
                return False
            else:
                self._next = await self._queue.get()

    def take(self, limit: int) -> Piece | None:
        if self.is_held or self._is_at_stop:
            return None

        limit = limit if self._stop is None else min(limit, self._stop - self.offset)
        runs, told = self._times(limit)
        limit = min(limit, told - self.offset)
        piece = self._next or self._source.read(self.offset, limit)
        self._next = None

        if piece is None:
            raise AssertionError("take before ready")

        if isinstance(piece, Gap):
            stop = piece.stop if self._stop is None else min(piece.stop, self._stop)
            self.offset = stop
            return replace(piece, stop=stop)

        if len(piece.data) > limit:
            self._next = replace(
                piece, offset=piece.offset + limit, data=piece.data[limit:]
            )
            piece = replace(piece, data=piece.data[:limit])

        self.offset = piece.stop
        return replace(piece, times=flat(runs, piece.stop)) if runs else piece

    def offer(self, piece: Piece) -> None:
        """Put *piece* where the reader finds it; never waits."""
        if self._behind:
            return

        if self._queue.full():
            self.fall_behind()
        else:
            self._queue.put_nowait(piece)

    def fall_behind(self) -> None:
        """Let the reader go on from the history, and see for itself."""
        # It has it all: a slow reader shall not hold memory.
        self._clear()
        self.wake()

    def wake(self) -> None:
        if self._queue.empty():
            self._queue.put_nowait(None)

    def stop_at(self, stops: dict[Stream, int]) -> None:
        self.until = None
        self._stop = max(self.offset, stops[self._source.stream])
        self.wake()

    def close(self) -> None:
        self._closed(self)

    @property
    def _is_at_stop(self) -> bool:
        return self._stop is not None and self.offset >= self._stop

    def _clear(self) -> None:
        self._behind = True

        while not self._queue.empty():
            self._queue.get_nowait()

    def _times(self, limit: int) -> tuple[list[tuple[int, int]], int]:
        stop = self.offset + min(limit, MAX_CHUNK)

        if self._index is None:
            return [], stop

        return self._index.times(self._source.stream, self.offset, stop, most=MAX_TIMES)


def flat(runs: list[tuple[int, int]], stop: int) -> tuple[int, ...]:
    """Return the *runs* (offset, time) before *stop*, as `Chunk.times` has them."""
    return tuple(value for run in runs if run[0] < stop for value in run)
