"""One stream for many readers, each at its own pace."""

import asyncio
from types import TracebackType
from typing import Self

from teleworkerd.output.history import Chunk, OutputHistory
from teleworkerd.protocol.errors import OffsetOutOfRange


class Subscription:
    """One reader's place in a history; a context manager that ends it.

    New chunks come through a bounded queue. A reader that has just come, or
    whose queue was full, is *behind* and reads from the history by offset until
    it has caught up, so that replay, resume and slow reader are one path.
    """

    def __init__(
        self, fanout: "Fanout", *, offset: int, stop: int | None, queue_chunks: int
    ) -> None:
        self.offset = offset
        self._fanout = fanout
        self._stop = stop
        self._queue: asyncio.Queue[Chunk | None] = asyncio.Queue(queue_chunks)
        self._next: Chunk | None = None
        self._behind = True

    @property
    def is_behind(self) -> bool:
        """Whether chunks of the future would not reach this queue."""
        return self._behind

    async def ready(self) -> bool:
        """Wait until `take` has something; False once all has been taken.

        Nothing is read from the history yet: a reader that then waits for its
        client holds no more than its queue.
        """
        while self._next is None:
            if self._stop is not None and self.offset >= self._stop:
                return False

            if not self._queue.empty():
                self._next = self._queue.get_nowait()
            elif self._behind and self.offset < self._fanout.size:
                return True
            elif self._behind:
                # Caught up: the next chunk is offered to us.
                self._behind = False
            elif self._fanout.ended:
                return False
            else:
                self._next = await self._queue.get()

        return True

    def take(self, limit: int) -> Chunk:
        """Return what `ready` found, at most *limit* (> 0) bytes of it.

        Raises `OSError` when the spool cannot be read.
        """
        if self._stop is not None:
            limit = min(limit, self._stop - self.offset)

        chunk = self._next or self._read_missed(limit)
        self._next = None

        if len(chunk.data) > limit:
            self._next = Chunk(chunk.offset + limit, chunk.data[limit:])
            chunk = Chunk(chunk.offset, chunk.data[:limit])

        self.offset = chunk.stop

        if self.offset == self._stop:
            self._next = None

        return chunk

    def offer(self, chunk: Chunk) -> None:
        """Put *chunk* where the reader finds it; never waits."""
        if self._behind:
            return

        try:
            self._queue.put_nowait(chunk)
        except asyncio.QueueFull:
            self._behind = True

    def fall_behind(self) -> None:
        """Let the reader go on from the history, and see for itself."""
        self._behind = True
        self.wake()

    def wake(self) -> None:
        """Let a waiting reader look again."""
        if self._queue.empty():
            self._queue.put_nowait(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._fanout.unsubscribe(self)

    def _read_missed(self, limit: int) -> Chunk:
        data = self._fanout.read(self.offset, limit)

        if not data:
            raise AssertionError("take before ready")

        return Chunk(self.offset, data)


class Fanout:
    """A stream's history and all who read it."""

    def __init__(
        self, history: OutputHistory, *, chunk: int, queue_chunks: int
    ) -> None:
        self.ended = False
        self._history = history
        self._chunk = chunk
        self._queue_chunks = queue_chunks
        self._subscriptions: set[Subscription] = set()

    @property
    def size(self) -> int:
        """How many bytes the stream has had so far."""
        return self._history.end

    @property
    def readers(self) -> int:
        """How many subscriptions there are."""
        return len(self._subscriptions)

    def grow(self, end: int) -> None:
        """Publish what the spool has up to *end*; never waits for a reader.

        Raises `OSError` when the spool cannot be read now; readers then find the
        bytes, or the error, at their own place in it.
        """
        live = [each for each in self._subscriptions if not each.is_behind]

        if not live:
            self._history.skip(max(end, self._history.end))
            return

        try:
            for chunk in self._history.extend(end):
                for subscription in live:
                    subscription.offer(chunk)
        except OSError:
            self._history.skip(end)

            for subscription in live:
                subscription.fall_behind()

            raise

    def end(self) -> None:
        """Note that nothing will come any more."""
        self.ended = True

        for subscription in self._subscriptions:
            subscription.wake()

        self._close_unread()

    def subscribe(self, *, offset: int = 0, follow: bool = True) -> Subscription:
        """Return a new reader's place at *offset*.

        Without *follow* it ends at what there is now. Raises `OffsetOutOfRange`.
        """
        if not 0 <= offset <= self.size:
            raise OffsetOutOfRange(
                f"offset {offset} lies outside the stream, which ends at {self.size};"
                f" ask from 0 up to {self.size}",
                {"first": 0, "end": self.size},
            )

        subscription = Subscription(
            self,
            offset=offset,
            stop=None if follow else self.size,
            queue_chunks=self._queue_chunks,
        )
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget *subscription*; twice is no harm."""
        self._subscriptions.discard(subscription)
        self._close_unread()

    def read(self, offset: int, limit: int) -> bytes:
        """Return at most *limit* bytes from *offset* on; empty at the end."""
        return self._history.read(offset, min(limit, self._chunk))

    def _close_unread(self) -> None:
        # A stream that nobody reads costs neither memory nor a descriptor.
        if not self._subscriptions:
            self._history.close()
