"""The terminal of a job: our side of it, and what the job writes there."""

import asyncio
import fcntl
import os
import termios
from typing import Final

from teleworkerd.protocol.spec import TerminalSize


_READ: Final = 64 << 10  # bytes at once


class Terminal:
    """A pair of ends: `job_end` is for the job, the other one is ours.

    What the job writes is copied into a pipe, at the speed of whoever reads that: a
    terminal is nothing that could be spliced. Raises `OSError` when none can be made.
    """

    def __init__(self, size: TerminalSize) -> None:
        self._ours, self.job_end = os.openpty()
        self._loop = asyncio.get_running_loop()
        self._pipe = -1
        self._pending = b""

        try:
            os.set_blocking(self._ours, False)
            self.resize(size)
        except OSError:
            self.close()
            raise

    def resize(self, size: TerminalSize) -> None:
        """Change its size; the job hears of it."""
        if self._ours >= 0:
            termios.tcsetwinsize(self._ours, (size.rows, size.columns))

    def writer(self) -> int:
        """Return a new descriptor to write as the keyboard; it does not block."""
        return fcntl.fcntl(self._ours, fcntl.F_DUPFD_CLOEXEC, 0)

    def copy_to(self, pipe: int) -> None:
        """Copy what the job writes into *pipe*, which is taken over.

        It is closed after `leave`, when nothing can come any more.
        """
        os.set_blocking(pipe, False)
        self._pipe = pipe
        self._loop.add_reader(self._ours, self._read)

    def leave(self) -> None:
        """Let the job's end go: nobody shall open it once more.

        Until then a job may close its terminal, and open it again by its name.
        """
        if self.job_end >= 0:
            os.close(self.job_end)
            self.job_end = -1

    def close(self) -> None:
        """Hang up; what the job still writes goes nowhere. Twice is no harm."""
        self._close_pipe()

        self.leave()

        if self._ours >= 0:
            self._loop.remove_reader(self._ours)
            os.close(self._ours)
            self._ours = -1

    def _read(self) -> None:
        try:
            data = os.read(self._ours, _READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # nobody has the other side open any more

        if data:
            self._pending = data
            self._write()
        else:
            self._loop.remove_reader(self._ours)
            self._close_pipe()

    def _write(self) -> None:
        """Write what was read; read no more before that is done."""
        try:
            while self._pending:
                count = os.write(self._pipe, self._pending)
                self._pending = self._pending[count:]
        except BlockingIOError:
            self._loop.remove_reader(self._ours)
            self._loop.add_writer(self._pipe, self._write)
            return
        except BrokenPipeError:
            self.close()
            return

        self._loop.remove_writer(self._pipe)
        self._loop.add_reader(self._ours, self._read)

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            self._loop.remove_writer(self._pipe)
            os.close(self._pipe)
            self._pipe = -1
