"""Reads bytes from a local descriptor without holding up the event loop."""

import asyncio
import os
import queue
import threading
import time
from typing import Final


_READ: Final = 64 << 10  # bytes at once
_PAUSE: Final = 0.02  # seconds until another look where reading does not wait


class Source:
    """A descriptor that is read piece by piece, and only when somebody asks.

    Others may share it, so its flags stay as they are: a thread waits for what comes,
    a daemon, so that a program which has to end does not wait for it. One `read` at a
    time; what one that was cancelled had asked for is what the next one gets.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._asked: queue.SimpleQueue[asyncio.Future[bytes]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._coming: asyncio.Future[bytes] | None = None

    async def read(self) -> bytes:
        """Return what comes next, empty at the end; raises `OSError`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, daemon=True)
            self._thread.start()

        if self._coming is None:
            self._coming = self._loop.create_future()
            self._asked.put(self._coming)

        coming = self._coming
        await asyncio.wait({coming})
        self._coming = None
        return coming.result()

    def _serve(self) -> None:
        while True:
            read = self._asked.get()
            data, error = b"", None

            try:
                data = os.read(self._fd, _READ)
            except BlockingIOError:
                # Whoever shares it with us has made it so; there is no hurry then.
                self._asked.put(read)
                time.sleep(_PAUSE)
                continue
            except OSError as failed:
                error = failed

            try:
                self._loop.call_soon_threadsafe(_settle, read, data, error)
            except RuntimeError:  # the loop is closed: the program is ending
                return


def _settle(read: asyncio.Future[bytes], data: bytes, error: OSError | None) -> None:
    if read.done():
        return

    if error is None:
        read.set_result(data)
    else:
        read.set_exception(error)
