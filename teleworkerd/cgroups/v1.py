"""Limits by the version 1 controllers blkio, cpu and memory."""

import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from teleworkerd.cgroups import groupfs, v1usage
from teleworkerd.cgroups.base import (
    CgroupDriver,
    CgroupError,
    Controller,
    Groups,
    JobCgroup,
    Limit,
)
from teleworkerd.cgroups.limits import check
from teleworkerd.cgroups.tracking import TrackedJob, Tracker, Tree, send
from teleworkerd.protocol.types import MIB, Limits, Usage


_FULL: Final = 1000  # weight and shares of `teleworker` itself
_PER_CENT: Final = 10  # of weight and shares: 1-100 becomes 10-1000


class V1Job(TrackedJob):
    """A job in groups of its own, or (*own* is empty) in those of all jobs."""

    def __init__(
        self, tree: Tree, *, applied: Limits, own: Groups, driver: "V1Driver"
    ) -> None:
        super().__init__(tree, applied=applied)
        self._own = own
        self._driver = driver

    def open_procs(self) -> list[int]:
        limiting = (
            groupfs.open_procs(self._own.values())
            if self._own
            else self._driver.open_common_procs()
        )

        try:
            return limiting + super().open_procs()
        except CgroupError:
            groupfs.close_all(limiting)
            raise

    def pids(self) -> set[int]:
        return super().pids() | self._limited_pids()

    def kill(self) -> None:
        super().kill()
        send(self._limited_pids(), signal.SIGKILL)

    def usage(self) -> Usage:
        return v1usage.fill(super().usage(), self._own)

    def remove(self) -> bool:
        gone = [groupfs.remove(group) for group in self._own.values()]
        return super().remove() and all(gone)

    def _limited_pids(self) -> set[int]:
        # A process of root can leave the group that tracks it; these hold it still.
        return set().union(*map(groupfs.pids, self._own.values()))


class V1Driver(CgroupDriver):
    """Makes `teleworker` and `teleworker/<id>` in each of the controllers.

    *mounts* holds the controllers that can be used; *weight_file* is the name that
    this kernel has for the weight of blkio, None when it has none.
    """

    name = "v1"
    reason = None

    def __init__(
        self,
        tracker: Tracker,
        *,
        mounts: Groups,
        supports: Mapping[Limit, str | None],
        weight_file: str | None,
    ) -> None:
        self.supports = supports
        self.tracking = tracker.name
        self._tracker = tracker
        self._mounts = mounts
        self._weight_file = weight_file

    def prepare(self) -> None:
        for controller, mount in self._mounts.items():
            top = mount / groupfs.TOP
            make = partial(groupfs.make, top, exist_ok=True)
            make()
            groupfs.restoring(partial(self._fill, controller, top), restore=make)

    def create(self, job_id: str, limits: Limits) -> JobCgroup:
        check(limits, supports=self.supports)
        own = self._own_groups(job_id) if limits else {}
        tree = self._tracker.tree(job_id)
        made: list[Path] = []

        try:
            for group in own.values():
                groupfs.restoring(partial(groupfs.make, group), restore=self.prepare)
                made.append(group)

            self._apply(limits, own)
            tree.make()
        except CgroupError:
            for group in made:
                groupfs.remove_if_unused(group)

            raise

        return V1Job(tree, applied=limits, own=own, driver=self)

    def leftover(self, job_id: str) -> JobCgroup | None:
        tree = self._tracker.tree(job_id)
        own = {
            controller: group
            for controller, group in self._own_groups(job_id).items()
            if group.is_dir()
        }

        if not own and not tree.exists():
            return None

        return V1Job(tree, applied=Limits(), own=own, driver=self)

    def leftovers(self) -> set[str]:
        tops = [mount / groupfs.TOP for mount in self._mounts.values()]
        return self._tracker.jobs().union(*map(groupfs.names_in, tops))

    def close(self) -> None:
        for mount in self._mounts.values():
            groupfs.remove_if_unused(mount / groupfs.TOP)

        self._tracker.close()

    def open_common_procs(self) -> list[int]:
        """Open `cgroup.procs` of each group `teleworker`; raises `CgroupError`."""
        tops = [mount / groupfs.TOP for mount in self._mounts.values()]
        return groupfs.restoring(lambda: groupfs.open_procs(tops), restore=self.prepare)

    def _own_groups(self, job_id: str) -> Groups:
        return {
            controller: groupfs.job_group(mount, job_id)
            for controller, mount in self._mounts.items()
        }

    def _fill(self, controller: Controller, top: Path) -> None:
        if controller == "cpu":
            groupfs.write_number(top / "cpu.shares", _FULL)

        if controller == "blkio" and self._weight_file is not None:
            groupfs.write_number(top / self._weight_file, _FULL)

    def _apply(self, limits: Limits, own: Groups) -> None:
        if limits.cpu is not None:
            groupfs.write_number(own["cpu"] / "cpu.shares", limits.cpu * _PER_CENT)

        if limits.io is not None and self._weight_file is not None:
            weight = limits.io * _PER_CENT
            groupfs.write_number(own["blkio"] / self._weight_file, weight)

        if limits.mem is not None:
            size = limits.mem * MIB
            memory = own["memory"]
            groupfs.write_number(
                memory / "memory.limit_in_bytes", size, unit=groupfs.PAGE
            )

            # Without it a job that is over its limit goes on into swap.
            swap = memory / "memory.memsw.limit_in_bytes"

            if swap.exists():
                groupfs.write_number(swap, size, unit=groupfs.PAGE)
