"""One stream for many readers, each at its own pace."""

from collections.abc import Callable

from teleworkerd.output.gaps import Gaps
from teleworkerd.output.history import OutputHistory
from teleworkerd.output.index import OutputIndex
from teleworkerd.output.subscription import Subscription
from teleworkerd.protocol.errors import OffsetOutOfRange, RequestError
from teleworkerd.protocol.types import Piece, Stream


class Fanout:
    """A stream's history and all who read it.

    While the spool is about to be removed, `removal` says so: it is what a reader
    gets who finds it gone.
    """

    def __init__(
        self, history: OutputHistory, *, chunk: int, queue_chunks: int
    ) -> None:
        self.ended = False
        self.failure: RequestError | None = None
        self.removal: RequestError | None = None
        self._history = history
        self._chunk = chunk
        self._queue_chunks = queue_chunks
        self._subscriptions: set[Subscription] = set()
        self._watchers: set[Callable[[], None]] = set()

    @property
    def stream(self) -> Stream:
        """Which of the two it is."""
        return self._history.stream

    @property
    def size(self) -> int:
        """How many bytes the stream has had so far."""
        return self._history.end

    @property
    def gaps(self) -> Gaps:
        """Which of them were dropped, and perhaps some that are still to come."""
        return self._history.gaps

    @property
    def dropped(self) -> int:
        """How many of them were dropped."""
        return self.gaps.before(self.size)

    @property
    def readers(self) -> int:
        """How many read the stream."""
        return len(self._subscriptions) + len(self._watchers)

    def grow(self, end: int) -> None:
        """Publish what the spool has up to *end*; never waits for a reader.

        Raises `OSError` when the spool cannot be read now; readers then find the
        bytes, or the error, at their own place in it.
        """
        if end <= self._history.end:
            return

        try:
            self._publish(end)
        finally:
            for watcher in self._watchers:
                watcher()

    def end(self, failure: RequestError | None = None) -> None:
        """Note that nothing will come any more; *failure* is for who still reads."""
        self.ended = True
        self.failure = failure

        for subscription in self._subscriptions:
            subscription.wake()

        for watcher in self._watchers:
            watcher()

        self._close_unread()

    def subscribe(
        self,
        *,
        offset: int = 0,
        stop: int | None = None,
        index: OutputIndex | None = None,
    ) -> Subscription:
        """Return a new reader's place at *offset*, which ends at *stop*.

        With an *index* its chunks have times. Raises `OffsetOutOfRange`.
        """
        self.check(offset)
        subscription = Subscription(
            self,
            offset=offset,
            stop=stop,
            queue_chunks=self._queue_chunks,
            closed=self.unsubscribe,
            index=index,
        )
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget *subscription*; twice is no harm."""
        self._subscriptions.discard(subscription)
        self._close_unread()

    def check(self, offset: int) -> None:
        """Raise `OffsetOutOfRange` unless the stream goes up to *offset*."""
        if not 0 <= offset <= self.size:
            raise OffsetOutOfRange(
                f"offset {offset} lies outside the stream, which ends at {self.size};"
                f" ask from 0 up to {self.size}",
                {"first": 0, "end": self.size},
            )

    def check_means(self) -> None:
        """Raise `OSError` when we lack what it takes to read the spool now."""
        self._history.check_means()

    def watch(self, watcher: Callable[[], None]) -> None:
        """Have *watcher* called whenever the stream has grown or ended."""
        self._watchers.add(watcher)

    def unwatch(self, watcher: Callable[[], None]) -> None:
        """Undo `watch`; twice is no harm."""
        self._watchers.discard(watcher)
        self._close_unread()

    def read(self, offset: int, limit: int) -> Piece | None:
        """Return at most *limit* bytes from *offset* on, or a gap; None at the end.

        Raises `OSError` when the spool cannot be read, or the error that says why.
        """
        if self.failure is not None:
            raise self.failure

        try:
            return self._history.read(offset, min(limit, self._chunk))
        except OSError as error:
            if self.removal is not None:
                raise self.removal from error

            raise

    def _publish(self, end: int) -> None:
        live = [each for each in self._subscriptions if not each.is_behind]

        if not live:
            self._history.skip(end)
            return

        try:
            for piece in self._history.extend(end):
                for subscription in live:
                    subscription.offer(piece)

                if all(subscription.is_behind for subscription in live):
                    # The rest they read when their clients want it.
                    self._history.skip(end)
                    return
        except OSError:
            self._history.skip(end)

            for subscription in live:
                subscription.fall_behind()

            raise

    def _close_unread(self) -> None:
        # A stream that nobody reads costs neither memory nor a descriptor.
        if not self.readers:
            self._history.close()
