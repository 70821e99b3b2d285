"""Limits by the version 1 controllers blkio, cpu, memory and pids."""

import signal
from collections.abc import Iterable, Mapping
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
from teleworkerd.cgroups.disks import why_no_weights
from teleworkerd.cgroups.freezer import Release
from teleworkerd.cgroups.limits import NOTHING, Settled, settle
from teleworkerd.cgroups.tracking import TrackedJob, Tracker, Tree, send
from teleworkerd.protocol.spec import Limits
from teleworkerd.protocol.status import Usage
from teleworkerd.protocol.types import MIB


PIDS_FILE: Final = "pids.max"
QUOTA_FILE: Final = "cpu.cfs_quota_us"

_FULL: Final = 1000  # weight and shares of `teleworker` itself
_PER_CENT: Final = 10  # of weight and shares: 1-100 becomes 10-1000
_PERIOD: Final = 100_000  # microseconds; the kernel's own


class V1Job(TrackedJob):
    """A job in groups of its own, as far as it has any (*own*).

    It is in those of all jobs else; *driver* knows them.
    """

    def __init__(
        self, tree: Tree, settled: Settled, *, own: Groups, driver: "V1Driver"
    ) -> None:
        super().__init__(tree, settled)
        self._own = own
        self._driver = driver

    def open_procs(self) -> list[int]:
        limiting = self._driver.open_common_procs(besides=self._own)

        try:
            limiting += groupfs.open_procs(self._own.values())
            return limiting + super().open_procs()
        except CgroupError:
            groupfs.close_all(limiting)
            raise

    def pids(self) -> set[int]:
        return super().pids() | self._limited_pids()

    def kill(self) -> None:
        self._lift_quota()
        super().kill()
        # Not before: a shell that cannot fork exits, and nobody would know by what.
        self._forbid_forks()
        send(self._limited_pids(), signal.SIGKILL)
        self._driver.release(self.pids())

    def usage(self) -> Usage:
        return v1usage.fill(super().usage(), self._own)

    def remove(self) -> bool:
        gone = [groupfs.remove(group) for group in self._own.values()]
        return super().remove() and all(gone)

    def _forbid_forks(self) -> None:
        if (pids := self._own.get("pids")) is not None:
            groupfs.write_if_there(pids / PIDS_FILE, "0")

    def _lift_quota(self) -> None:
        """Have it not wait for its share of time to die."""
        if (cpu := self._own.get("cpu")) is not None:
            # Parents first: a group cannot have more than the one above it.
            for group in reversed(groupfs.descend(cpu)):
                groupfs.write_if_there(group / QUOTA_FILE, "-1")

    def _limited_pids(self) -> set[int]:
        # A process of root can leave the group that tracks it; these hold it still.
        return set().union(*map(groupfs.pids, self._own.values()))


class V1Driver(CgroupDriver):
    """Makes `teleworker` and `teleworker/<id>` in each of the controllers.

    *mounts* holds the controllers that can be used; *lacks* says of each limit why it
    cannot be had, if so; *weight_file* is the name that this kernel has for the weight
    of blkio, None when it has none.
    """

    name = "v1"
    reason = None

    def __init__(
        self,
        tracker: Tracker,
        *,
        mounts: Groups,
        lacks: Mapping[Limit, str | None],
        weight_file: str | None,
        freezer: Path | None = None,
    ) -> None:
        self.tracking = tracker.name
        self.release = Release(freezer)
        self._lacks = lacks
        self._tracker = tracker
        self._mounts = mounts
        self._weight_file = weight_file

    @property
    def supports(self) -> Mapping[Limit, str | None]:
        return {**self._lacks, "io": self._lacks["io"] or why_no_weights()}

    def prepare(self) -> None:
        for controller, mount in self._mounts.items():
            top = mount / groupfs.TOP
            make = partial(groupfs.make, top, exist_ok=True)
            make()
            groupfs.restoring(partial(self._fill, controller, top), restore=make)

    def create(
        self,
        job_id: str,
        limits: Limits,
        *,
        defaults: Limits = Limits(),
        strict: bool = False,
    ) -> JobCgroup:
        supports = self.supports if limits.io is not None else self._lacks
        settled = settle(limits, defaults, supports=supports, strict=strict)
        own = self._own_groups(job_id, self._needed(limits, settled.applied))
        tree = self._tracker.tree(job_id)
        made: list[Path] = []

        try:
            for group in own.values():
                groupfs.restoring(partial(groupfs.make, group), restore=self.prepare)
                made.append(group)

            self._apply(settled.applied, limits.io, own)
            tree.make()
        except CgroupError:
            for group in made:
                groupfs.remove_if_unused(group)

            raise

        return V1Job(tree, settled, own=own, driver=self)

    def leftover(self, job_id: str) -> JobCgroup | None:
        tree = self._tracker.tree(job_id)
        own = {
            controller: group
            for controller, group in self._own_groups(job_id, self._mounts).items()
            if group.is_dir()
        }

        if not own and not tree.exists():
            return None

        return V1Job(tree, NOTHING, own=own, driver=self)

    def leftovers(self) -> set[str]:
        tops = [mount / groupfs.TOP for mount in self._mounts.values()]
        return self._tracker.jobs().union(*map(groupfs.names_in, tops))

    def close(self) -> None:
        for mount in self._mounts.values():
            groupfs.remove_if_unused(mount / groupfs.TOP)

        self._tracker.close()

    def open_common_procs(self, *, besides: Groups) -> list[int]:
        """Open `cgroup.procs` of each `teleworker` in which a job has no group.

        Processes are bounded for each job alone: there is nothing in common. Raises
        `CgroupError`.
        """
        tops = [
            mount / groupfs.TOP
            for controller, mount in self._mounts.items()
            if controller != "pids" and controller not in besides
        ]
        return groupfs.restoring(lambda: groupfs.open_procs(tops), restore=self.prepare)

    def _needed(self, asked: Limits, applied: Limits) -> list[Controller]:
        """Return the controllers in which a job needs a group of its own.

        One limit, and it has one in all that limit; a bound on processes that nobody
        asked for needs only its own.
        """
        needed: list[Controller] = []

        if asked or applied.mem is not None or applied.cpus is not None:
            needed += [name for name in self._mounts if name != "pids"]

        if applied.pids is not None:
            needed.append("pids")

        return needed

    def _own_groups(self, job_id: str, controllers: Iterable[Controller]) -> Groups:
        return {
            controller: groupfs.job_group(self._mounts[controller], job_id)
            for controller in controllers
        }

    def _fill(self, controller: Controller, top: Path) -> None:
        if controller == "cpu":
            groupfs.write_number(top / "cpu.shares", _FULL)

        if controller == "blkio" and self._weight_file is not None:
            groupfs.write_number(top / self._weight_file, _FULL)

    def _apply(self, limits: Limits, io: int | None, own: Groups) -> None:
        """Write *limits*; *io* too if it has no effect now: a disk may get BFQ."""
        if limits.cpu is not None:
            groupfs.write_number(own["cpu"] / "cpu.shares", limits.cpu * _PER_CENT)

        if limits.cpus is not None:
            quota = max(1000, round(limits.cpus * _PERIOD))
            groupfs.write_number(own["cpu"] / "cpu.cfs_period_us", _PERIOD)
            groupfs.write_number(own["cpu"] / QUOTA_FILE, quota)

        if io is not None and self._weight_file is not None:
            groupfs.write_number(own["blkio"] / self._weight_file, io * _PER_CENT)

        if limits.pids is not None:
            groupfs.write_number(own["pids"] / PIDS_FILE, limits.pids)

        if limits.mem is not None:
            _limit_memory(own["memory"], limits.mem * MIB)


def _limit_memory(group: Path, size: int) -> None:
    groupfs.write_number(group / "memory.limit_in_bytes", size, unit=groupfs.PAGE)

    # Without it a job that is over its limit goes on into swap.
    swap = group / "memory.memsw.limit_in_bytes"

    if swap.exists():
        groupfs.write_number(swap, size, unit=groupfs.PAGE)
