"""What jobs leave, on its way to the disk: the kernel's memory is not enough."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from teleworkerd.failpoints import failpoint
from teleworkerd.spare import Spare, lack_of, started_threads


_THREADS: Final = 4  # many files become one write of the file system's journal
_RETRY: Final = 1.0  # seconds


class SyncFailed(OSError):
    """The disk did not take what was written; what of it is there, nobody knows."""


class Syncer:
    """The threads that wait for the disk; what is new waits *interval* seconds.

    With an interval of 0 nothing is brought to the disk but by the kernel. The
    descriptors of *spare* are taken when there are no others. Raises `NoThreads`.
    """

    def __init__(self, interval: float, spare: Spare | None = None) -> None:
        self.interval = interval
        self.spare = spare
        # Without an interval too: a later one may come when there are no more.
        self.threads: Final = started_threads(_THREADS, name="sync")

    def close(self) -> None:
        """End the threads; what was not begun is not done."""
        self.threads.shutdown(cancel_futures=True)


class DirectorySync:
    """Whether what stands in the directory *path* would outlive a power failure.

    After the first failure there is no second try: the kernel tells of each only
    once, and takes for written then what is not. *failed* is told of it, and waited
    for.
    """

    def __init__(
        self,
        path: Path,
        syncer: Syncer,
        *,
        failed: Callable[[SyncFailed], Awaitable[None]],
    ) -> None:
        self._path = path
        self._syncer = syncer
        self._failed = failed
        self._failure: SyncFailed | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether anybody shall wait for the disk."""
        return self._syncer.interval > 0

    def changed(self) -> None:
        """Note that there is something new, which may wait a little."""
        if self.is_wanted and self._timer is None and self._failure is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._syncer.interval, self._begin)

    async def finish(self) -> None:
        """Have the disk take all that is there; raises `SyncFailed`."""
        self.cancel()

        if self._task is not None:
            await asyncio.wait([self._task])

        await self._sync()

        if self._failure is not None:
            raise self._failure

    def cancel(self) -> None:
        """Begin nothing more; what a thread is doing comes to its end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self) -> None:
        self._timer = None

        if self._task is None:
            self._task = asyncio.create_task(self._sync())
            self._task.add_done_callback(lambda _: self._done())
        else:
            self.changed()  # a slow disk

    def _done(self) -> None:
        self._task = None

    async def _sync(self) -> None:
        loop = asyncio.get_running_loop()

        while self._failure is None:
            try:
                await loop.run_in_executor(self._syncer.threads, sync, self._path)
            except SyncFailed as error:
                self._failure = error
                await self._failed(error)
            except (OSError, MemoryError):
                if self._syncer.spare is not None:
                    self._syncer.spare.free()

                await asyncio.sleep(_RETRY)
            else:
                return


def sync(directory: Path) -> None:
    """Have the disk take the files in *directory*, and where they are found.

    What is gone meanwhile needs nothing. Raises `SyncFailed`, or `OSError` when
    there are no means to try.
    """
    try:
        files = _files_in(directory)
    except FileNotFoundError:
        return

    for path in (*map(Path, files), directory, directory.parent):
        _sync(path)


def _files_in(directory: Path) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if _has_bytes(entry)]
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _judged(error, directory) from error


def _has_bytes(entry: os.DirEntry[str]) -> bool:
    """Whether there is more to *entry* than that it is there."""
    try:
        return (
            entry.is_file(follow_symlinks=False)
            and entry.stat(follow_symlinks=False).st_size > 0
        )
    except FileNotFoundError:  # written by rename
        return False


def _sync(path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _judged(error, path) from error

    try:
        failpoint("sync")
        os.fdatasync(fd)
    except OSError as error:
        raise SyncFailed(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(fd)


def _judged(error: OSError, path: Path) -> OSError:
    """Return what to raise for *error*: `SyncFailed`, unless we lack the means."""
    kind = OSError if lack_of(error) is not None else SyncFailed
    return kind(error.errno, error.strerror, str(path))
