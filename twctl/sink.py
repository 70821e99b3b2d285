"""Writes bytes to a local descriptor without holding up the event loop."""

import asyncio
import os
import queue
import select
import stat
import threading
from collections.abc import Callable


class Sink:
    """A descriptor that takes every byte as it is, at its own speed.

    Others may share it, so its flags stay as they are: a pipe or terminal is
    opened a second time, non-blocking. Where that cannot be, a thread of our
    own writes, a daemon, so that a program which has to end does not wait for
    it. One `write` at a time. Raises `BrokenPipeError` once nobody reads.
    """

    def __init__(self, fd: int) -> None:
        mode = os.fstat(fd).st_mode
        is_device = stat.S_ISCHR(mode) and not os.isatty(fd)
        self._fd = fd
        self._never_blocks = stat.S_ISREG(mode) or is_device
        self._is_pipe = stat.S_ISFIFO(mode)
        self._own = None if self._never_blocks else _reopen(fd)
        self._work: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]]] | None = None

    async def write(self, data: bytes) -> None:
        """Return when all of *data* is written."""
        if self._never_blocks:
            write_all(self._fd, data)
        elif self._own is not None:
            await self._write_piecemeal(self._own, data)
        else:
            await self._write_by_thread(data)

    async def finish(self) -> None:
        """Write what was kept back, which is nothing."""

    def close(self) -> None:
        """Give back what was opened; the descriptor itself stays open."""
        if self._own is not None:
            os.close(self._own)
            self._own = None

    async def _write_piecemeal(self, fd: int, data: bytes) -> None:
        view = memoryview(data)

        while view:
            try:
                view = view[os.write(fd, view) :]
            except BlockingIOError:
                await _writable(fd)

    async def _write_by_thread(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()

        if self._work is None:
            self._work = queue.SimpleQueue()
            threading.Thread(
                target=_serve, args=(self._fd, self._work, loop), daemon=True
            ).start()

        done: asyncio.Future[None] = loop.create_future()
        self._work.put((data, done))
        await done

    def watch(self, abandoned: Callable[[], None]) -> None:
        """Have *abandoned* called when nobody reads the pipe any more."""
        if self._is_pipe:
            loop = asyncio.get_running_loop()
            loop.add_reader(self._fd, self._look, abandoned)

    def unwatch(self) -> None:
        """Undo `watch`."""
        asyncio.get_running_loop().remove_reader(self._fd)

    def _look(self, abandoned: Callable[[], None]) -> None:
        self.unwatch()

        if _poll(self._fd, 0) & select.POLLERR:
            abandoned()


def write_all(fd: int, data: bytes) -> None:
    """Write *data* to *fd*, which may be non-blocking, whole."""
    view = memoryview(data)

    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            # Whoever shares the terminal or pipe with us has made it so.
            _poll(fd, None)


def _reopen(fd: int) -> int | None:
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

    try:
        return os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:  # a socket, another user's pipe, or no /proc
        return None


async def _writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    room: asyncio.Future[None] = loop.create_future()
    loop.add_writer(fd, _settle, room, None)

    try:
        await room
    finally:
        loop.remove_writer(fd)


def _poll(fd: int, timeout: float | None) -> int:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return next((events for _, events in poll.poll(timeout)), 0)


def _serve(
    fd: int,
    work: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]]],
    loop: asyncio.AbstractEventLoop,
) -> None:
    while True:
        data, done = work.get()
        error = None

        try:
            write_all(fd, data)
        except OSError as failed:
            error = failed

        try:
            loop.call_soon_threadsafe(_settle, done, error)
        except RuntimeError:  # the loop is closed: the program is ending
            return


def _settle(done: asyncio.Future[None], error: OSError | None) -> None:
    if done.done():
        return

    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
