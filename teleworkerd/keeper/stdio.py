"""What a job has as its stdin, stdout and stderr, and what stands behind it."""

import contextlib
import fcntl
import os
import subprocess
from collections.abc import Callable

from teleworkerd.execution import InputFacts
from teleworkerd.keeper.input import JobInput
from teleworkerd.keeper.orders import ResizeTerminal, TakeInput, WriteInput
from teleworkerd.keeper.spools import Spools
from teleworkerd.keeper.terminal import Terminal
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.types import InputEndReason


InputOrder = TakeInput | WriteInput | ResizeTerminal
"""What a server wants to be done with a job's stdin, or terminal."""


class Stdio:
    """The descriptors that the job of *spec* gets; its output goes to *spools*.

    *input_changed* is called when there is something new in `input_facts`. Raises
    `OSError` when they cannot be made.
    """

    def __init__(
        self, spec: JobSpec, spools: Spools, *, input_changed: Callable[[], None]
    ) -> None:
        self.stdin = subprocess.DEVNULL
        self.stdout, self.stderr = spools.write_ends
        self._input: JobInput | None = None
        self._spools = spools
        self._terminal: Terminal | None = None

        with contextlib.ExitStack() as stack:
            if spec.tty is not None:
                self._terminal = terminal = Terminal(spec.tty)
                stack.callback(terminal.close)
                self.stdin = self.stdout = self.stderr = terminal.job_end
                self._input = JobInput(
                    terminal.writer(), is_terminal=True, changed=input_changed
                )
                stack.callback(self._input.close)
            elif spec.stdin:
                self.stdin, fd = os.pipe2(os.O_CLOEXEC)
                stack.callback(self._close_stdin)
                os.set_blocking(fd, False)
                self._input = JobInput(fd, is_terminal=False, changed=input_changed)
                stack.callback(self._input.close)

            self._stack = stack.pop_all()

    @property
    def has_terminal(self) -> bool:
        """Whether they are a terminal."""
        return self._terminal is not None

    def launched(self) -> None:
        """Leave the job's ends to the job, and begin to move its output."""
        if self._terminal is not None:
            stdout, _ = self._spools.write_ends
            self._terminal.copy_to(fcntl.fcntl(stdout, fcntl.F_DUPFD_CLOEXEC, 0))
        else:
            self._close_stdin()

        self._spools.launched()

    @property
    def input_facts(self) -> InputFacts | None:
        """Who sends to the job and how far that is; None if nobody can."""
        return None if self._input is None else self._input.facts

    def carry_out(self, order: InputOrder) -> None:
        """Do what *order* says; raises `RemoteProtocolError` for too much."""
        match order:
            case TakeInput(turn=turn, sender=sender) if self._input is not None:
                self._input.take_over(turn, sender)
            case WriteInput(turn=turn, data=data, eof=eof) if self._input is not None:
                self._input.write(turn, data, eof=eof)
            case ResizeTerminal(size=size) if self._terminal is not None:
                self._terminal.resize(size)
            case _:
                pass  # the job has nothing of that kind

    def tree_ended(self) -> None:
        """Let its output come to an end: nothing of the job is left."""
        if self._terminal is not None:
            self._terminal.leave()

    def end_input(self) -> None:
        """Take no more input: nobody reads it."""
        if self._input is not None:
            self._input.end(InputEndReason.ENDED)

    def close(self) -> None:
        """Close everything but the spools; twice is no harm."""
        self._stack.close()

    def _close_stdin(self) -> None:
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = subprocess.DEVNULL
