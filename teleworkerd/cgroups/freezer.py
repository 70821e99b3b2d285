"""The freezer hierarchy of version 1: trees kept there, and tasks taken out of it."""

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from teleworkerd.cgroups import groupfs
from teleworkerd.cgroups.base import CgroupError
from teleworkerd.cgroups.tracking import GroupTracker, GroupTree, send


STATE_FILE: Final = "freezer.state"

# What was forking when the freeze came shows up one round later; no fork follows it.
_ROUNDS: Final = 4


class FreezerTree(GroupTree):
    """A tree that is frozen while it is killed, so that none can fork away."""

    def kill(self) -> None:
        self._set(self._group, "FROZEN")

        try:
            killed: set[int] = set()

            for _ in range(_ROUNDS):
                fresh = self.pids() - killed

                if not fresh:
                    break

                send(fresh, signal.SIGKILL)
                killed |= fresh
        finally:
            self._set(self._group, "THAWED")

            # A group below may have been frozen by its own job, and would stay so.
            for group in reversed(groupfs.descend(self._group)):
                self._set(group, "THAWED")

    def cpu_seconds(self) -> float | None:
        return None

    def _set(self, group: Path, state: str) -> None:
        # A group that is missing is gone; one that will not freeze is killed as it is.
        with suppress(CgroupError):
            groupfs.write(group / STATE_FILE, state)


class FreezerTracker(GroupTracker):
    """Keeps each tree in `teleworker/<id>` of the freezer hierarchy."""

    name = "freezer"
    kind = FreezerTree


class Release:
    """Takes killed processes out of freezer groups, in which they would not die.

    A job of root's may put processes into a group of its own there, and freeze it.
    *mount* is None where there is no such hierarchy, or trees are kept in it.
    """

    def __init__(self, mount: Path | None, *, proc: Path = Path("/proc")) -> None:
        self._mount = mount
        self._proc = proc

    def __call__(self, pids: Iterable[int]) -> None:
        """Do it for *pids*, those of one job; what has ended meanwhile is no error."""
        if self._mount is None:
            return

        for pid in pids:
            # The group may be others' too, or below one that is frozen: only this
            # process is moved. The root of the hierarchy is never frozen.
            if self._is_away(pid):
                with suppress(CgroupError):
                    groupfs.write(self._mount / groupfs.PROCS, str(pid))

    def _is_away(self, pid: int) -> bool:
        with suppress(OSError):
            for line in (self._proc / str(pid) / "cgroup").read_text().splitlines():
                _, controllers, path = line.split(":", 2)

                if "freezer" in controllers.split(","):
                    return path != os.sep

        return False
