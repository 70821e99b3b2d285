"""The end of a job's directory: out of sight at once, then gone little by little."""

import asyncio
import logging
import os
import shutil
from collections import deque
from pathlib import Path
from typing import Final

from teleworkerd.spare import lack_of


log = logging.getLogger(__name__)

_RETRY: Final = 1.0  # seconds, when there is no descriptor left
_STEP: Final = 64 << 20  # bytes that are freed in one go, which takes milliseconds


class Trash:
    """The directories of removed jobs, below the state directory, on their way out.

    A crash leaves them here, and the next `open` goes on.
    """

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "trash"
        self._waiting: deque[str] = deque()
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to remove what an earlier keeper has left here."""
        try:
            self._waiting.extend(sorted(os.listdir(self._path)))  # noqa: PTH208  names
        except FileNotFoundError:
            return
        except OSError as error:
            log.error("%s stays as it is: %s", self._path, error)

        self._go_on()

    def take(self, directory: Path) -> bool:
        """Move *directory* here, to be removed; false when there is no such thing.

        Raises `OSError`, and then it is where it was.
        """
        self._path.mkdir(mode=0o700, exist_ok=True)

        try:
            directory.rename(self._path / directory.name)
        except FileNotFoundError:
            return False

        self._waiting.append(directory.name)
        self._go_on()
        return True

    async def close(self) -> None:
        """Stop, whatever is left."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _go_on(self) -> None:
        if self._waiting and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._empty())

    async def _empty(self) -> None:
        while self._waiting:
            path = self._path / self._waiting[0]

            try:
                await _remove(path)
            except OSError as error:
                if lack_of(error) is not None:
                    await asyncio.sleep(_RETRY)
                    continue

                log.error("%s is removed at the next start: %s", path, error)

            self._waiting.popleft()
            await asyncio.sleep(0)


async def _remove(path: Path) -> None:
    for file in _files_in(path):
        await _shrink(file)

    _delete(path)


def _files_in(path: Path) -> list[str]:
    if not _is_directory(path):
        return []

    with os.scandir(path) as entries:
        return [entry.path for entry in entries if entry.is_file(follow_symlinks=False)]


def _delete(path: Path) -> None:
    if _is_directory(path):
        shutil.rmtree(path)
    else:
        path.unlink()


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


async def _shrink(file: str) -> None:
    """Cut *file* down from its end, until the rest can be freed in one go."""
    fd = os.open(file, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)

    try:
        while True:
            found = os.fstat(fd)

            # Holes have a size but no blocks.
            if found.st_blocks * 512 <= _STEP or found.st_size == 0:
                return

            os.ftruncate(fd, max(found.st_size - _STEP, 0))
            await asyncio.sleep(0)
    finally:
        os.close(fd)
