"""Gives memory back to the kernel that handshakes have used and nobody needs."""

import asyncio
import ctypes
from collections.abc import Callable
from typing import Final


_MANY: Final = 64  # handshakes; each had some 50 KiB
_DELAY: Final = 1.0  # seconds, for there may be more of them


def trim() -> None:
    """Have malloc give back what is free; others than glibc's do so by themselves."""
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return

    malloc_trim(ctypes.c_size_t(0))


class Heap:
    """Calls *give_back* soon after many handshakes have left their memory behind.

    uvloop takes 256 KiB for each and uses little of that. In memory that is new to us
    the rest costs nothing; in what others used before, the kernel keeps it all. So a
    second flood would cost more than the first, and each one more than that before.
    """

    def __init__(self, give_back: Callable[[], None] = trim) -> None:
        self._give_back = give_back
        self._left = 0
        self._timer: asyncio.TimerHandle | None = None

    def left(self) -> None:
        """Note that one more has left its memory behind."""
        self._left += 1

        if self._left >= _MANY and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_DELAY, self._clean_up)

    def close(self) -> None:
        """Give back the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _clean_up(self) -> None:
        self._timer = None
        self._left = 0
        self._give_back()
