"""Whether the server still does something, and how a service manager asks us."""

import os
from collections.abc import Mapping
from typing import Final


_LOOKS: Final = 10  # in the time after which the server is given up …
_MOST: Final = 1.0  # … but no fewer than one in so many seconds
_MICROSECONDS: Final = 1e6


class Watchdog:
    """Gives up a server that has answered nothing for *limit* seconds.

    `tick` is called every `interval` seconds. Only time in which those calls came
    counts: whoever was stopped itself has nobody to blame. Times are a clock's
    seconds.
    """

    def __init__(self, limit: float, *, now: float) -> None:
        self._last = now
        self._silence = 0.0
        self._sent = 0
        self._is_answered = True
        self.allow(limit)

    @property
    def is_over(self) -> bool:
        """Whether the server is to be given up."""
        return self._silence >= self._limit

    def tick(self, now: float) -> int | None:
        """Let time pass; return the number of a probe that is to be sent, if any."""
        passed, self._last = now - self._last, now

        if not self._is_answered:
            self._silence += min(passed, 2 * self.interval)
            return None

        self._sent += 1
        self._is_answered = False
        self._silence = 0.0
        return self._sent

    def allow(self, limit: float) -> None:
        """Give the server up after *limit* seconds, counted from now on."""
        self.interval = min(limit / _LOOKS, _MOST)
        self._limit = limit
        self._silence = 0.0

    def answered(self, number: int) -> None:
        """Note the answer to the probe *number*; only that to the last one counts."""
        if number == self._sent:
            self._is_answered = True


def watchdog_interval(environ: Mapping[str, str] = os.environ) -> float | None:
    """Return every how many seconds the service manager wants to hear WATCHDOG=1.

    That is half of what it waits; None if it does not, or not for us.
    """
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None

    try:
        seconds = int(environ.get("WATCHDOG_USEC", "0")) / _MICROSECONDS
    except ValueError:
        return None

    return seconds / 2 if seconds > 0 else None
