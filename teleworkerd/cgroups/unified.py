"""Trees kept in the version 2 hierarchy, which kills a whole group at once."""

import signal
from typing import Final

from teleworkerd.cgroups import groupfs
from teleworkerd.cgroups.base import CgroupError
from teleworkerd.cgroups.tracking import GroupTracker, GroupTree, send


KILL_FILE: Final = "cgroup.kill"


class UnifiedTree(GroupTree):
    """A tree in a version 2 group; it needs no controller."""

    def kill(self) -> None:
        try:
            groupfs.write(self._group / KILL_FILE, "1")
        except CgroupError:
            # Nothing is left when the group is missing; else do what can be done.
            send(self.pids(), signal.SIGKILL)

    def cpu_seconds(self) -> float | None:
        used = groupfs.read_number(self._group / "cpu.stat", key="usage_usec")
        return None if used is None else used / 1e6


class UnifiedTracker(GroupTracker):
    """Keeps each tree in `teleworker/<id>` of the version 2 hierarchy."""

    name = "unified"
    kind = UnifiedTree
