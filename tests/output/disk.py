"""A disk that the test can hold up and let fail."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

from tests.fakes import DEADLINE


class Disk:
    """Stands for `os.fdatasync`: notes what it is asked for, waits, and fails.

    It waits while `gate` is shut. `errors` are what the next calls fail by, 0 for not.
    """

    def __init__(self) -> None:
        self.synced: list[str] = []
        self.errors: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.called = threading.Event()

    def __call__(self, fd: int) -> None:
        self.called.set()
        assert self.gate.wait(DEADLINE)
        self.synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))

        if self.errors and (number := self.errors.pop(0)):
            raise OSError(number, os.strerror(number))


def all_of(path: Path) -> list[str]:
    """Return what must be on the disk, so that the job in *path* is."""
    return sorted(map(str, (path / "exit", path / "stdout", path, path.parent)))


def failing(number: int, *, times: int = 1 << 30) -> Callable[..., int]:
    """Return a call that fails so often, then is as `os.open`."""
    work = os.open
    left = times

    def fail(path: str, *arguments: int) -> int:
        nonlocal left

        if left:
            left -= 1
            raise OSError(number, os.strerror(number))

        return work(path, *arguments)

    return fail
