"""What comes again and again: the first is told at once, the rest as one."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar


Key = TypeVar("Key")
What = TypeVar("What")

_TICK: Final = 0.001  # seconds; a timer is no finer


@dataclass(slots=True)
class _Seen(Generic[What]):
    """What came last, how often again, and until when that is counted."""

    last: What
    until: float
    count: int = 0


class Repeats(Generic[Key, What]):
    """Counts what comes again, by its key.

    After *period* seconds *sum_up* is told of what came again: the key, what came
    last, and how often. It may go on: then that is told after another period.
    """

    def __init__(
        self, sum_up: Callable[[Key, What, int], None], *, period: float
    ) -> None:
        self._sum_up = sum_up
        self._period = period
        self._seen: dict[Key, _Seen[What]] = {}  # the first to end is the first
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._seen)

    def __contains__(self, key: Key) -> bool:
        return key in self._seen

    def add(self, key: Key, what: What) -> bool:
        """Take *what* into account; return whether it is new, and to be told."""
        if (seen := self._seen.get(key)) is not None:
            seen.count += 1
            seen.last = what
            return False

        self._count(key, what)

        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._period, self._look)

        return True

    def drop_oldest(self) -> None:
        """Sum up what came first, and forget it."""
        self._end(next(iter(self._seen)))

    def flush(self) -> None:
        """Sum everything up, and forget it."""
        while self._seen:
            self.drop_oldest()

        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _count(self, key: Key, what: What) -> None:
        until = asyncio.get_running_loop().time() + self._period
        self._seen[key] = _Seen(what, until)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None

        while self._seen:
            key, seen = next(iter(self._seen.items()))
            left = seen.until - loop.time()

            if left > 0:
                self._timer = loop.call_later(max(left, _TICK), self._look)
                return

            self._end(key)

            if seen.count:
                self._count(key, seen.last)

    def _end(self, key: Key) -> None:
        seen = self._seen.pop(key)

        if seen.count:
            self._sum_up(key, seen.last, seen.count)
