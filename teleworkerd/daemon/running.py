"""A daemon that runs, found by its state directory and seen from outside."""

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Self


class RunningKeeper:
    """The keeper that holds the lock of a state directory.

    It is held on to by a pidfd, so that no signal reaches another process.
    """

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.pidfd)

    @property
    def has_ended(self) -> bool:
        """Whether it is no more."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def send(self, number: int) -> None:
        """Send a signal, to nobody if it has ended; raises `PermissionError`."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)


def find_keeper(state_dir: Path) -> RunningKeeper | None:
    """Return the keeper of *state_dir*; None if none runs, or none that we may see.

    It is the process that `keeper.pid` names and that holds the lock: a pid alone
    may have been given to another.
    """
    try:
        pid = int((state_dir / "keeper.pid").read_text())
        pidfd = os.pidfd_open(pid)
    except (OSError, ValueError, OverflowError):
        return None

    keeper = RunningKeeper(pid, pidfd)

    # In this order: the process that was looked at is the one of the pidfd.
    if _holds(pid, state_dir / "lock") and not keeper.has_ended:
        return keeper

    os.close(pidfd)
    return None


def _holds(pid: int, path: Path) -> bool:
    """Whether the process has the file at *path* open and locked."""
    with contextlib.suppress(OSError):
        lock = path.stat()
        return any(
            os.path.samestat(found, lock) and "FLOCK" in _info(pid, number)
            for number, found in _open_files(pid)
        )

    return False


def _open_files(pid: int) -> Iterator[tuple[str, os.stat_result]]:
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            yield entry.name, entry.stat()


def _info(pid: int, number: str) -> str:
    try:
        return Path(f"/proc/{pid}/fdinfo/{number}").read_text()
    except OSError:
        return ""
