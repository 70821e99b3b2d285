"""Trees kept in the freezer hierarchy of version 1."""

import signal
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
