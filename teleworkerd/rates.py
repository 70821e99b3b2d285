"""How often something may be done: so often over a longer time, so often at once."""


class TokenBucket:
    """Holds *burst* tokens at most, and gets *rate* more a second.

    It is full to begin with. Nobody is kept from taking more than there are: who
    does waits the longer. *now* is in seconds, by a clock that only goes forward.
    """

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, *, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now

    def take(self, count: int = 1, *, now: float) -> None:
        """Take *count* tokens."""
        self._tokens = self._held(now) - count
        self._at = now

    def wait(self, *, now: float) -> float:
        """Return in how many seconds there is a token; 0 if there is one."""
        return max(0.0, (1 - self._held(now)) / self._rate)

    def is_full(self, *, now: float) -> bool:
        """Whether it is as good as a new one."""
        return self._held(now) >= self._burst

    def _held(self, now: float) -> float:
        return min(self._burst, self._tokens + (now - self._at) * self._rate)
