"""Room on the disk: what is kept back for a full one, and what a new job must find."""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar


T = TypeVar("T")

RESERVE: Final = 1 << 20  # bytes
_PIECE: Final = 16 << 10  # bytes that are given up at once; others may take the rest
_SHARE: Final = 20  # on a small disk reserve and floor are no more than 1 in so many
_AMPLE: Final = 4  # times a reserve must be free before it is taken
_BLOCK: Final = 4096  # bytes; a block of most disks

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Reserve:
    """A file at *path* of *size* bytes, which is there to be given up.

    It has real blocks, and stays when the process ends: one that starts on a full
    disk has it too. It is given up in pieces, for who waits for room takes
    all that is free.
    """

    def __init__(self, path: Path, size: int = RESERVE) -> None:
        self._path = path
        self._size = size

    def fill(self) -> bool:
        """Take what is missing, if there is plenty of room; return whether it is whole.

        Never raises.
        """
        try:
            return self._fill()
        except OSError:
            return False

    def give_to(self, group: int) -> None:
        """Let *group* fill it and give it up; a reserve that is not there stays so."""
        with suppress(FileNotFoundError):
            os.chown(self._path, -1, group)
            self._path.chmod(0o660)

    def release(self) -> bool:
        """Give up a piece; return false when there is nothing left. Never raises."""
        try:
            held = self._path.stat().st_size
            os.truncate(self._path, max(held - _PIECE, 0))
        except OSError:
            return False

        return held > 0

    def spend(self, write: Callable[[], T]) -> T:
        """Do *write*, again for each piece given up, while the disk is full.

        Raises the `OSError` of the last attempt.
        """
        while True:
            try:
                return write()
            except OSError as error:
                if error.errno not in _FULL or not self.release():
                    raise

    def _fill(self) -> bool:
        disk = os.statvfs(self._path.parent)
        most = disk.f_blocks * disk.f_frsize // _SHARE
        size = min(self._size, most) // _BLOCK * _BLOCK
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)

        try:
            held = os.fstat(file).st_size

            if held >= size:
                return True

            if disk.f_bavail * disk.f_frsize < _AMPLE * size:
                return False

            try:
                _allocate(file, held, size)
            except OSError:
                os.truncate(file, held)
                raise
        finally:
            os.close(file)

        return True


@dataclass(frozen=True, slots=True)
class Room:
    """What is free on a disk, and what must be for a new job, in bytes."""

    free: int
    floor: int


def room_at(
    path: Path,
    min_free: int,
    *,
    statvfs: Callable[[Path], os.statvfs_result] = os.statvfs,
) -> Room:
    """Return the room on the disk of *path*, where *min_free* bytes are to be free.

    On a small disk a part of it is enough. Raises `OSError`.
    """
    disk = statvfs(path)
    small = disk.f_blocks * disk.f_frsize // _SHARE // _BLOCK * _BLOCK
    return Room(disk.f_bavail * disk.f_frsize, min(min_free, small))


def _allocate(file: int, start: int, stop: int) -> None:
    """Give *file* blocks from *start* to *stop*, as zeros; raises `OSError`."""
    try:
        os.posix_fallocate(file, start, stop - start)
    except OSError as error:
        if error.errno in _FULL:
            raise

        # Not every file system can do that.
        if os.pwrite(file, bytes(stop - start), start) != stop - start:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error

        os.fsync(file)
