"""The main process of a job by pidfd: signalled safely, looked at before reaped."""

import asyncio
import contextlib
import logging
import os
import signal
from pathlib import Path
from typing import Final

from teleworkerd.spare import Spare


log = logging.getLogger(__name__)

_TICKS: Final = os.sysconf("SC_CLK_TCK")


class MainProcess:
    """The process *pid* of *job*, a child of ours that has not been waited for yet.

    `cpu_seconds` is what it and those it waited for used, once it has exited;
    None when it was reaped before we could look. *spare* is for that look.
    """

    def __init__(self, job: str, pid: int, spare: Spare) -> None:
        self.cpu_seconds: float | None = None
        self._pid = pid
        self._spare = spare
        self._fd: int | None = None

        try:
            self._fd = os.pidfd_open(pid)
            asyncio.get_running_loop().add_reader(self._fd, self._look)
        except ProcessLookupError:
            return  # it was very short, and is reaped already
        except OSError as error:
            log.error(
                "job %s: only its tree can be signalled, not process %d: %s",
                *(job, pid, error),
            )

    def signal(self, number: int) -> None:
        """Send a signal to this very process; nothing if it is no more."""
        if self._fd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fd, number)

    def close(self) -> None:
        """Let go of the process."""
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None

    def _look(self) -> None:
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)

        # The fields of proc(5) after the command's name, which may hold anything.
        with (
            contextlib.suppress(OSError, IndexError, ValueError),
            self._spare.lent(),
        ):
            stat = Path(f"/proc/{self._pid}/stat").read_bytes()
            fields = stat.rpartition(b")")[2].split()
            self.cpu_seconds = sum(map(int, fields[11:15])) / _TICKS
