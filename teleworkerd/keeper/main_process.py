"""The main process of a job by pidfd: signalled safely, looked at before reaped."""

import asyncio
import contextlib
import logging
import os
import signal

from teleworkerd.keeper.syscalls import Rusage, rusage_of


log = logging.getLogger(__name__)


class MainProcess:
    """The process *pid* of *job*, a child of ours that has not been waited for yet.

    `used` is what it and those it waited for used, once it has exited; None when it
    was reaped before we could look.
    """

    def __init__(self, job: str, pid: int) -> None:
        self.used: Rusage | None = None
        self._pid = pid
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

        with contextlib.suppress(OSError):
            self.used = rusage_of(self._pid)
