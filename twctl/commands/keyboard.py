"""The terminal that somebody sits at, given over to a job for a while."""

import asyncio
import atexit
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from teleworkerd.protocol.spec import MAX_SIDE, TerminalSize
from twctl.render import escape


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


class RawTerminal:
    """Has the terminal *fd* pass on each key as it is, while it is entered.

    Whatever happens, it is as it was before when the program ends.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._before: list[object] | None = None

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._fd)
        atexit.register(self.restore)
        tty.setraw(self._fd, termios.TCSADRAIN)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.restore()
        atexit.unregister(self.restore)

    def restore(self) -> None:
        """Put it back; again is no harm."""
        if self._before is not None:
            before, self._before = self._before, None
            termios.tcsetattr(self._fd, termios.TCSADRAIN, before)  # type: ignore[arg-type]  # as tcgetattr gave it

    def notice(self, text: str) -> None:
        """Print a line on stderr that begins and ends where lines do."""
        ends = ("\r\n", "\r\n") if self._before is not None else ("", "\n")
        sys.stderr.write(f"{ends[0]}twctl: {escape(text)}{ends[1]}")
        sys.stderr.flush()


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
