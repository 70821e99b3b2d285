"""What clients send to a job's stdin, on its way into a pipe or a terminal."""

import asyncio
import contextlib
import errno
import os
import termios
from collections.abc import Callable
from typing import Final

from teleworkerd.execution import InputFacts
from teleworkerd.protocol.errors import RemoteProtocolError
from teleworkerd.protocol.messages import MAX_INPUT
from teleworkerd.protocol.types import InputEndReason


_LFLAG: Final = 3  # places in what tcgetattr returns
_CC: Final = 6
_GONE: Final = frozenset({errno.EPIPE, errno.EIO})  # nobody has the other end


class JobInput:
    """The one sender's bytes: counted when they are in *fd*, and kept until then.

    It takes over *fd*, which does not block: the write end of a pipe, or the side of
    a terminal that is ours. *changed* is called when there is something to tell.
    """

    def __init__(
        self, fd: int, *, is_terminal: bool, changed: Callable[[], None]
    ) -> None:
        self._fd = fd
        self._is_terminal = is_terminal
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._pending = bytearray()
        self._has_end = False
        self._is_at_line_start = True
        self._is_waiting = False
        self._facts = InputFacts()

    @property
    def facts(self) -> InputFacts:
        """Who sends, and how far that is."""
        return self._facts

    def take_over(self, turn: int, sender: str) -> None:
        """Let *sender* go on from here; what was not taken is thrown away."""
        self._pending.clear()
        self._has_end = False
        self._facts = InputFacts(turn, sender, self._facts.offset, self._facts.ended)
        self._changed()

    def write(self, turn: int, data: bytes, *, eof: bool) -> None:
        """Take *data* of the sender whose *turn* it is, and the end if it is that.

        Raises `RemoteProtocolError` for more than a client may have on its way.
        """
        if turn != self._facts.turn or self._facts.ended is not None:
            return

        if len(self._pending) + len(data) > MAX_INPUT:
            raise RemoteProtocolError(
                f"input: more than {MAX_INPUT} bytes that were not taken"
            )

        self._pending += data
        self._has_end = self._has_end or eof

        if not self._is_waiting:
            self._pass_on()

    def end(self, reason: InputEndReason) -> None:
        """Take no more; again is no harm."""
        if self._facts.ended is not None:
            return

        self._pending.clear()
        facts = self._facts
        self._facts = InputFacts(facts.turn, facts.sender, facts.offset, reason)
        self._close()
        self._changed()

    def close(self) -> None:
        """Give up what there is; nothing is told any more."""
        self._changed = _tell_nobody
        self.end(InputEndReason.ENDED)

    def _pass_on(self) -> None:
        self._stop_waiting()

        try:
            while self._pending:
                self._took(os.write(self._fd, self._pending))

            if self._has_end:
                self._write_end()
                self.end(InputEndReason.EOF)
        except BlockingIOError:
            self._is_waiting = True
            self._loop.add_writer(self._fd, self._pass_on)
        except OSError as error:
            if error.errno not in _GONE:
                raise

            self.end(InputEndReason.CLOSED)

    def _took(self, count: int) -> None:
        self._is_at_line_start = self._pending[count - 1 : count] == b"\n"
        del self._pending[:count]
        facts = self._facts
        self._facts = InputFacts(facts.turn, facts.sender, facts.offset + count)
        self._changed()

    def _write_end(self) -> None:
        """Have the job read an end: that of a pipe is its closing."""
        if not self._is_terminal:
            return

        attributes = termios.tcgetattr(self._fd)

        if not attributes[_LFLAG] & termios.ICANON:
            return  # it reads single keys, of which none is an end

        # Within a line, the first one only hands over what there is of it.
        times = 1 if self._is_at_line_start else 2
        os.write(self._fd, attributes[_CC][termios.VEOF] * times)

    def _stop_waiting(self) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self._loop.remove_writer(self._fd)

    def _close(self) -> None:
        self._stop_waiting()

        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)

            self._fd = -1


def _tell_nobody() -> None:
    """Do nothing."""
