"""A time by which something must have happened."""

import asyncio
from collections.abc import Callable
from typing import Final


_TICK: Final = 0.001  # seconds; a timer is no finer


class Deadline:
    """Calls *passed* when *seconds* have gone by since `begin`; 0: never.

    To begin and to end cost little: a timer that is there is not set anew before it
    fires.
    """

    __slots__ = ("_due", "_passed", "_seconds", "_timer")

    def __init__(self, seconds: float, passed: Callable[[], None]) -> None:
        self._seconds = seconds
        self._passed = passed
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_running(self) -> bool:
        """Whether it has begun, and neither ended nor passed."""
        return self._due is not None

    def begin(self) -> None:
        """Count from now on."""
        if not self._seconds:
            return

        loop = asyncio.get_running_loop()
        self._due = loop.time() + self._seconds

        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._look)

    def end(self) -> None:
        """Let it not pass, unless it begins again."""
        self._due = None

    def close(self) -> None:
        """Give back the timer; it is not to be used after."""
        self._due = None

        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None

        if self._due is None:
            return

        loop = asyncio.get_running_loop()

        if (left := self._due - loop.time()) > 0:
            self._timer = loop.call_later(max(left, _TICK), self._look)
            return

        self._due = None
        self._passed()
