"""Who has begun a handshake and not ended it, by where they are."""

from typing import Final, Generic, TypeVar


T = TypeVar("T")


class HalfOpen(Generic[T]):
    """Handshakes under way, by source, oldest first.

    A good client needs milliseconds for its own. So it is always the oldest that
    gives way, and whoever comes gets in, from a source that floods us as well.
    """

    def __init__(self) -> None:
        self._by_source: Final[dict[str, dict[T, None]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def enter(self, source: str, handshake: T) -> None:
        """Add *handshake*, which begins now."""
        self._by_source.setdefault(source, {})[handshake] = None
        self._count += 1

    def leave(self, source: str, handshake: T) -> None:
        """Forget *handshake*; twice is no harm."""
        own = self._by_source.get(source, {})

        if handshake not in own:
            return

        del own[handshake]
        self._count -= 1

        if not own:
            del self._by_source[source]

    def in_the_way(self, source: str, *, most: int, most_per_source: int) -> T | None:
        """Return who has to leave before another of *source* may enter.

        That is one of its own where they have their share, else one of the source
        that has the most. None: there is room.
        """
        own = self._by_source.get(source, {})

        if len(own) >= most_per_source:
            return next(iter(own))

        if self._count >= most:
            largest = max(self._by_source, key=lambda name: len(self._by_source[name]))
            return next(iter(self._by_source[largest]))

        return None
