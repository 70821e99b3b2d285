"""Trees kept in the version 2 hierarchy, which kills a whole group at once."""

import signal
from contextlib import suppress
from typing import Final

from teleworkerd.cgroups import groupfs
from teleworkerd.cgroups.base import CgroupError
from teleworkerd.cgroups.tracking import GroupTracker, GroupTree, send


FREEZE_FILE: Final = "cgroup.freeze"
KILL_FILE: Final = "cgroup.kill"

_ROUNDS: Final = 4  # as in the freezer, for kernels that do not kill groups


class UnifiedTree(GroupTree):
    """A tree in a version 2 group; it needs no controller."""

    def kill(self) -> None:
        try:
            groupfs.write(self._group / KILL_FILE, "1")
        except CgroupError:
            self._kill_frozen()

    def _kill_frozen(self) -> None:
        """Do it where the kernel is too old, or the group is missing or not ours."""
        self._freeze("1")

        try:
            for _ in range(_ROUNDS):
                send(self.pids(), signal.SIGKILL)
        finally:
            self._freeze("0")

    def _freeze(self, value: str) -> None:
        with suppress(CgroupError):
            groupfs.write(self._group / FREEZE_FILE, value)

    def cpu_seconds(self) -> float | None:
        used = groupfs.read_number(self._group / "cpu.stat", key="usage_usec")
        return None if used is None else used / 1e6


class UnifiedTracker(GroupTracker):
    """Keeps each tree in `teleworker/<id>` of the version 2 hierarchy."""

    name = "unified"
    kind = UnifiedTree
