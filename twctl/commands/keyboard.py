"""The terminal that somebody sits at, given over to a job for a while."""

import asyncio
import os
import signal
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Final, Self

from teleworkerd.protocol.spec import MAX_SIDE, TerminalSize


ESCAPE: Final = 0x1D  # Ctrl-]
INTERRUPT: Final = 0x03  # Ctrl-C
TIMES: Final = 3  # that it is pressed to detach …
WITHIN: Final = 1.0  # … so many seconds


def local_size() -> TerminalSize | None:
    """Return the size of the terminal that we are on; None if there is none."""
    for fd in (1, 0, 2):
        try:
            columns, rows = os.get_terminal_size(fd)
        except OSError:
            continue

        if columns and rows:
            return TerminalSize(min(columns, MAX_SIDE), min(rows, MAX_SIDE))

    return None


@contextmanager
def terminal_set(fd: int, change: Callable[[int, int], object]) -> Iterator[None]:
    """Have the terminal *fd* as *change* makes it, and afterwards as it was.

    One that has gone away is as nobody likes it, which is no error.
    """
    loop = asyncio.get_running_loop()

    try:
        before = termios.tcgetattr(fd)
    except termios.error:
        yield
        return

    def change_it() -> None:
        with suppress(termios.error):
            change(fd, termios.TCSADRAIN)

    # A shell that stopped us, and goes on with us, has the terminal as it likes it.
    loop.add_signal_handler(signal.SIGCONT, change_it)

    try:
        change_it()
        yield
    finally:
        loop.remove_signal_handler(signal.SIGCONT)

        with suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


class DetachKeys:
    """Looks for Ctrl-] three times within a second in what is typed.

    Those that may be of these three are held back until it is known that they are not.
    """

    def __init__(self) -> None:
        self._held = 0
        self._since = 0.0

    @property
    def is_holding(self) -> bool:
        """Whether some are held back: then call `release` after `WITHIN` seconds."""
        return self._held > 0

    def release(self) -> bytes:
        """Return those that were held back: they were none of these three."""
        held, self._held = self._held, 0
        return bytes([ESCAPE]) * held

    def split(self, data: bytes, *, now: float) -> tuple[bytes, bool]:
        """Return what is for the job, and whether to detach after it."""
        typed = bytearray()

        if self._held and now - self._since >= WITHIN:
            typed += self.release()

        for byte in data:
            if byte != ESCAPE:
                typed += self.release()
                typed.append(byte)
                continue

            self._since = self._since if self._held else now
            self._held += 1

            if self._held == TIMES:
                self._held = 0
                return bytes(typed), True

        return bytes(typed), False


class SizeWatch:
    """Calls *changed* when the terminal has another size, while it is entered."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        self._loop.add_signal_handler(signal.SIGWINCH, self._changed)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.remove_signal_handler(signal.SIGWINCH)
