"""From a job's pipe into its spool, without the bytes ever being ours.

`splice` moves them in one system call: whoever is killed in between, they are
in the pipe or in the file. What is not to be kept goes the same way to /dev/null.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import select
import struct
import termios
from dataclasses import dataclass
from typing import Final, Protocol

from teleworkerd.jobdir import JobDirectory, open_new
from teleworkerd.keeper.quota import Bound, Share, Shortage
from teleworkerd.keeper.records import GapFile, SpoolIndex
from teleworkerd.protocol.types import Stream


log = logging.getLogger(__name__)

_MOVE: Final = 1 << 20  # at most, in one go, before other jobs have their turn
_RETRY_FIRST: Final = 0.1  # seconds until a full disk is tried again …
_RETRY_MOST: Final = 5.0  # … and at most
_REST: Final = 1.0  # seconds that a full disk is left alone by who drops: few gaps

_INT: Final = struct.Struct("i")


@dataclass(frozen=True, slots=True)
class Books:
    """Where the bytes of a job's spools are accounted for, or thrown away."""

    index: SpoolIndex
    gaps: GapFile
    share: Share
    null: int


class SpoolWatcher(Protocol):
    """Who decides about a spool's bytes, and hears of them."""

    def may_drop(self, shortage: Shortage) -> bool:
        """Whether bytes that have no room are to be dropped, not waited with."""

    def dropped(self, stream: Stream, offset: int, stop: int) -> None:
        """These bytes are dropped; the index is going to say that they were."""

    def held_up(self) -> None:
        """A spool's `shortage` has changed."""


class Spool:
    """One stream of one job: a pipe, and the file that it runs into.

    `end` counts every byte that was taken from the pipe, `dropped` those that were
    not kept: the file has a hole there. `shortage` is why no byte is taken now;
    `is_cut` says that bytes were left in the pipe that could not even be dropped.
    `write_end` is for the job alone: close it with `launched` once the job has it.
    """

    def __init__(
        self,
        directory: JobDirectory,
        stream: Stream,
        *,
        books: Books,
        watcher: SpoolWatcher,
        pipe: int,
    ) -> None:
        self.end = 0
        self.dropped = 0
        self.shortage: Shortage | None = None
        self.is_cut = False
        self.ended = asyncio.Event()
        self._stream = stream
        self._index = books.index
        self._gaps = books.gaps
        self._share = books.share
        self._null = books.null
        self._watcher = watcher
        self._loop = asyncio.get_running_loop()
        self._retry = _RETRY_FIRST
        self._timer: asyncio.TimerHandle | None = None
        self._full = Shortage(Bound.DISK, "")
        self._rest_until = 0.0
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

    def launched(self) -> None:
        """Leave the write end to the job, and begin to move."""
        os.close(self.write_end)
        self.write_end = -1
        self._loop.add_reader(self._pipe, self._move)

    def resume(self) -> None:
        """Look again for room, if there was none."""
        if self.shortage is not None:
            self._stop_waiting()
            self._loop.add_reader(self._pipe, self._move)

    def close(self) -> None:
        """Stop, whether or not the pipe is at its end; twice is no harm."""
        if self._pipe < 0:
            return

        self._go_on()
        self._stop_waiting()
        self._loop.remove_reader(self._pipe)

        for fd in (self._pipe, self._file, self.write_end):
            if fd >= 0:
                os.close(fd)

        self._pipe = -1
        self.ended.set()

    def _move(self) -> None:
        """Take what is in the pipe, or try again when we can."""
        try:
            self._take()
        except MemoryError as error:
            self._hold_up(Shortage.of(error))

    def _take(self) -> None:
        """Take as much as there is room for."""
        room = min(self._share.room(), _MOVE)

        if not room:
            self._overflow(self._share.shortage())
        elif self._loop.time() < self._rest_until:
            self._overflow(self._full)
        else:
            self._keep(room)

    def _keep(self, room: int) -> None:
        try:
            self._gaps.settle(self._stream, self.end)
            moved = os.splice(self._pipe, self._file, room, offset_dst=self.end)
        except BlockingIOError:
            return
        except OSError as error:
            self._full = Shortage.of(error)
            self._overflow(self._full)
            return

        if moved == 0:
            self.close()
            return

        self.end += moved
        self._share.take(moved)
        self._go_on()
        self._index.kept(self._stream, self.end)

    def _overflow(self, shortage: Shortage) -> None:
        """Drop what is in the pipe, or leave it there until there is room."""
        count = self._in_pipe()

        if count == 0:
            # In this order: what the last writer wrote before it went is there then.
            if self._is_hung_up() and not self._in_pipe():
                self.close()
            else:
                self._go_on()
        elif self._watcher.may_drop(shortage):
            if shortage.bound is Bound.DISK and self._loop.time() >= self._rest_until:
                self._rest_until = self._loop.time() + _REST

            self._drop(min(count, _MOVE))
        else:
            self._hold_up(shortage)

    def _drop(self, count: int) -> None:
        try:
            self._gaps.claim(self._stream, self.end, self.end + count)
            moved = os.splice(self._pipe, self._null, count)
        except BlockingIOError:
            return
        except OSError as error:
            self._cut_off_or_wait(Shortage.of(error))
            return

        if moved:
            offset = self.end
            self.end += moved
            self.dropped += moved
            self._watcher.dropped(self._stream, offset, self.end)
            self._go_on()
            self._index.dropped(self._stream, self.end)

    def _cut_off_or_wait(self, shortage: Shortage) -> None:
        """End here, if nobody wants to wait for a disk that takes no record."""
        if shortage.bound is Bound.FAULT and self._watcher.may_drop(shortage):
            log.error("%s is cut off: %s", self._name, shortage)
            self.is_cut = True
            self.close()
        else:
            self._hold_up(shortage)

    def _hold_up(self, shortage: Shortage) -> None:
        level = logging.WARNING

        if shortage.bound in (Bound.JOB, Bound.SHARED):
            self._share.wait(self.resume)
        else:
            level = logging.ERROR
            self._timer = self._loop.call_later(self._retry, self.resume)
            self._retry = min(2 * self._retry, _RETRY_MOST)

        is_new = shortage != self.shortage
        self.shortage = shortage

        # The pipe stays readable: without this the loop would spin. The job
        # blocks when its pipe is full; no byte is lost.
        self._loop.remove_reader(self._pipe)

        if is_new:
            log.log(level, "%s is held up: %s", self._name, shortage)
            self._watcher.held_up()

    def _go_on(self) -> None:
        self._retry = _RETRY_FIRST

        if self.shortage is not None:
            log.info("%s goes on", self._name)
            self.shortage = None
            self._watcher.held_up()

    def _stop_waiting(self) -> None:
        self._share.stop_waiting(self.resume)

        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _in_pipe(self) -> int:
        """Return how many bytes are in the pipe."""
        data = fcntl.ioctl(self._pipe, termios.FIONREAD, bytes(_INT.size))
        (count,) = _INT.unpack(data)
        return int(count)

    def _is_hung_up(self) -> bool:
        """Whether nobody can write into the pipe any more."""
        poll = select.poll()
        poll.register(self._pipe, 0)
        return any(event & select.POLLHUP for _, event in poll.poll(0))
