"""What is there when nothing is: descriptors and threads, and words for the lack."""

import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Event
from typing import Final

from teleworkerd.protocol.errors import TeleworkerError


LACKS: Final = {
    errno.EMFILE: "the daemon has no file descriptors left",
    errno.ENFILE: "the machine has no file descriptors left",
    errno.ENOMEM: "the daemon has no memory left",
}


def lack_of(error: BaseException) -> str | None:
    """Return what we lack when we meet *error*, a clause; None if it is no lack."""
    if isinstance(error, MemoryError):
        return LACKS[errno.ENOMEM]

    return LACKS.get(error.errno or 0) if isinstance(error, OSError) else None


class Spare:
    """As many as *size* descriptors for what must be done when there are no others.

    `free` may be called on any thread, all else on one. `null` is one of /dev/null,
    for whoever throws something away. Raises `OSError` when there are none to begin
    with.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self.null: Final = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._held: list[int] = []
        self.fill()

    def fill(self) -> bool:
        """Hold as many as there should be; return whether that is so."""
        try:
            while len(self._held) < self._size:
                self._held.append(os.dup(self.null))
        except OSError:
            return False

        return True

    def free(self) -> None:
        """Let others have them, until it is filled again; twice is no harm."""
        with suppress(IndexError):  # another thread may take the last
            while True:
                os.close(self._held.pop())

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Let the block have them, which neither waits nor leaves anything open."""
        self.free()

        try:
            yield
        finally:
            self.fill()

    def close(self) -> None:
        """Give all back, for good."""
        self.free()
        os.close(self.null)


class NoThreads(TeleworkerError):
    """No more threads can be started."""


def started_threads(count: int, *, name: str) -> ThreadPoolExecutor:
    """Return *count* threads that run already: later there may be no more.

    Raises `NoThreads`.
    """
    threads = ThreadPoolExecutor(count, thread_name_prefix=name)
    gate = Event()

    try:
        for _ in range(count):
            # Each is busy, so that the next one needs another.
            threads.submit(gate.wait)
    except RuntimeError as error:
        threads.shutdown(wait=False, cancel_futures=True)
        raise NoThreads(f"cannot start {count} threads for {name}: {error}") from error
    finally:
        gate.set()

    return threads
