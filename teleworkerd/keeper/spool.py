"""From a job's pipe into its spool, without the bytes ever being ours.

`splice` moves them in one system call: whoever is killed in between, they are
in the pipe or in the file.
"""

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable
from typing import Final

from teleworkerd.jobdir import JobDirectory, open_new
from teleworkerd.output.index import IndexRecord
from teleworkerd.protocol.types import Stream


log = logging.getLogger(__name__)

_MOVE: Final = 1 << 20  # at most, in one go, before other jobs have their turn
_RETRY_FIRST: Final = 0.1  # seconds until a full disk is tried again …
_RETRY_MOST: Final = 5.0  # … and at most


class SpoolIndex:
    """The index file that a job's two spools share."""

    def __init__(self, directory: JobDirectory) -> None:
        self._fd = open_new(directory.index)
        self._size = 0

    def append(self, record: IndexRecord) -> None:
        """Add *record*; without it the bytes lack only their time."""
        data = record.pack()

        # A full disk may take half a record: the next one is written over it.
        with contextlib.suppress(OSError):
            if os.pwrite(self._fd, data, self._size) == len(data):
                self._size += len(data)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class Spool:
    """One stream of one job: a pipe, and the file that it runs into.

    *grown* is called after each move. `write_end` is for the job alone: close
    it with `launched` once the job has it.
    """

    def __init__(
        self,
        directory: JobDirectory,
        stream: Stream,
        *,
        index: SpoolIndex,
        pipe: int,
        grown: Callable[[], None],
    ) -> None:
        self.size = 0
        self.ended = asyncio.Event()
        self._stream = stream
        self._index = index
        self._grown = grown
        self._loop = asyncio.get_running_loop()
        self._retry = _RETRY_FIRST
        self._timer: asyncio.TimerHandle | None = None
        self._name = f"{directory.path.name}/{stream}"
        self._file = open_new(directory.spool(stream))

        try:
            self._pipe, self.write_end = os.pipe2(os.O_CLOEXEC)
        except OSError:
            os.close(self._file)
            raise

        os.set_blocking(self._pipe, False)

        # An unprivileged daemon may be over its share of pipe memory.
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, pipe)

    @property
    def is_held_up(self) -> bool:
        """Whether bytes are in the pipe that the disk had no room for."""
        return self._retry != _RETRY_FIRST

    def launched(self) -> None:
        """Leave the write end to the job, and begin to move."""
        os.close(self.write_end)
        self.write_end = -1
        self._loop.add_reader(self._pipe, self._move)

    def close(self) -> None:
        """Stop, whether or not the pipe is at its end; twice is no harm."""
        if self._pipe < 0:
            return

        if self._timer is not None:
            self._timer.cancel()

        self._loop.remove_reader(self._pipe)

        if self.write_end >= 0:
            os.close(self.write_end)

        os.close(self._pipe)
        os.close(self._file)
        self._pipe = -1
        self.ended.set()

    def _move(self) -> None:
        try:
            moved = os.splice(self._pipe, self._file, _MOVE, offset_dst=self.size)
        except BlockingIOError:
            return
        except OSError as error:
            self._wait_for_room(error)
            return

        self._retry = _RETRY_FIRST

        if moved == 0:
            self.close()
            return

        self._index.append(IndexRecord(time.time_ns(), self._stream, self.size, moved))
        self.size += moved
        self._grown()

    def _wait_for_room(self, error: OSError) -> None:
        # The pipe stays readable: without this the loop would spin. The job
        # blocks when its pipe is full; no byte is lost.
        self._loop.remove_reader(self._pipe)

        if self._retry == _RETRY_FIRST:
            what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
            log.error("%s is held up: %s", self._name, what)

        self._timer = self._loop.call_later(self._retry, self._try_again)
        self._retry = min(2 * self._retry, _RETRY_MOST)

    def _try_again(self) -> None:
        self._timer = None
        self._loop.add_reader(self._pipe, self._move)
