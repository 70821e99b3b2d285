"""Limits by the controllers of version 2, in the part of the hierarchy that is ours."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from teleworkerd.cgroups import groupfs, v2usage
from teleworkerd.cgroups.base import CgroupDriver, CgroupError, JobCgroup, Limit
from teleworkerd.cgroups.disks import why_no_weights
from teleworkerd.cgroups.limits import NOTHING, Settled, settle
from teleworkerd.cgroups.tracking import TrackedJob
from teleworkerd.cgroups.unified import UnifiedTracker, UnifiedTree
from teleworkerd.protocol.spec import Limits
from teleworkerd.protocol.status import Usage
from teleworkerd.protocol.types import MIB


LEAF: Final = "daemon"  # the group of our own processes, where we need one
AVAILABLE: Final = "cgroup.controllers"
ENABLED: Final = "cgroup.subtree_control"
QUOTA_FILE: Final = "cpu.max"
CONTROLLERS: Final[Mapping[Limit, str]] = {
    "mem": "memory",
    "cpu": "cpu",
    "io": "io",
    "cpus": "cpu",
    "pids": "pids",
}

_PERIOD: Final = 100_000  # microseconds; the kernel's own
_WEIGHTS: Final = ("io.weight", "io.bfq.weight")  # of io.cost, and of BFQ


@dataclass(frozen=True, slots=True)
class Base:
    """The group that is ours to divide; *is_root* if it is the whole machine's.

    Only that may hold processes beside groups that are limited.
    """

    path: Path
    is_root: bool

    @classmethod
    def of(cls, path: Path) -> "Base":
        """Return *path* as a base, as the kernel shows it."""
        # The file says whether anybody is in a group; of the root one need not ask.
        return cls(path, is_root=not (path / "cgroup.events").exists())

    def available(self) -> frozenset[str]:
        """Return the controllers that groups below it could have."""
        with suppress(OSError):
            return frozenset((self.path / AVAILABLE).read_text().split())

        return frozenset()

    def lacks(self) -> dict[Limit, str | None]:
        """Return why a limit cannot be had here; None for one that can."""
        available = self.available()
        return {
            limit: None if name in available else self._why_missing(name)
            for limit, name in CONTROLLERS.items()
        }

    def _why_missing(self, controller: str) -> str:
        if self.is_root:
            return f"the kernel has no controller {controller} of cgroup version 2"

        return f"controller {controller} is not delegated to {self.path}"


class V2Job(TrackedJob):
    """A job in a group of its own, which limits it and holds it together."""

    def __init__(self, tree: UnifiedTree, settled: Settled) -> None:
        super().__init__(tree, settled)
        self._group = tree.group

    def kill(self) -> None:
        # A quota would let it die as slowly as it may run.
        for group in reversed(groupfs.descend(self._group)):
            groupfs.write_if_there(group / QUOTA_FILE, "max")

        super().kill()

    def usage(self) -> Usage:
        return v2usage.read(self._group, processes=len(self.pids()))


class V2Driver(CgroupDriver):
    """Makes `teleworker/<id>` below *base*; *lacks* says which limits cannot be had."""

    name = "v2"
    reason = None
    tracking = "unified"

    def __init__(self, base: Base) -> None:
        self._base = base
        self._lacks = base.lacks()
        self._tracker = UnifiedTracker(base.path)

    @property
    def supports(self) -> Mapping[Limit, str | None]:
        return {**self._lacks, "io": self._lacks["io"] or self._why_no_weights()}

    def prepare(self) -> None:
        if not self._base.is_root:
            # Whoever has limited groups below must itself be empty, and before: the
            # kernel would take it for a group of threads.
            self._move_out()

        top = self._top()
        groupfs.make(top, exist_ok=True)
        wanted = {name for limit, name in CONTROLLERS.items() if not self._lacks[limit]}

        for controller in sorted(wanted):
            try:
                self._enable(controller, self._base.path)
                groupfs.restoring(
                    partial(self._enable, controller, top),
                    restore=partial(groupfs.make, top, exist_ok=True),
                )
            except CgroupError as error:
                self._give_up(controller, str(error))

        if all(self._lacks.values()):
            raise CgroupError("; ".join(sorted({*filter(None, self._lacks.values())})))

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
        group = groupfs.job_group(self._base.path, job_id)
        groupfs.restoring(lambda: groupfs.make(group), restore=self.prepare)

        try:
            self._apply(settled.applied, limits.io, group)
        except CgroupError:
            groupfs.remove_if_unused(group)
            raise

        return V2Job(UnifiedTree(group), settled)

    def leftover(self, job_id: str) -> JobCgroup | None:
        tree = UnifiedTree(groupfs.job_group(self._base.path, job_id))
        return V2Job(tree, NOTHING) if tree.exists() else None

    def leftovers(self) -> set[str]:
        return self._tracker.jobs()

    def close(self) -> None:
        self._tracker.close()

    def _top(self) -> Path:
        return self._base.path / groupfs.TOP

    def _why_no_weights(self) -> str | None:
        return why_no_weights(self._base.path / "io.cost.qos")

    def _give_up(self, controller: str, why: str) -> None:
        for limit, name in CONTROLLERS.items():
            if name == controller:
                self._lacks[limit] = why

    def _enable(self, controller: str, group: Path) -> None:
        """Let the groups below *group* have *controller*; raises `CgroupError`."""
        file = group / ENABLED

        if controller not in groupfs.read(file).split():
            groupfs.write(file, f"+{controller}")

    def _move_out(self) -> None:
        leaf = self._base.path / LEAF
        groupfs.make(leaf, exist_ok=True)
        groupfs.write(leaf / groupfs.PROCS, str(os.getpid()))

    def _apply(self, limits: Limits, io: int | None, group: Path) -> None:
        """Write *limits*; *io* too if it has no effect now: a disk may get BFQ."""
        if limits.mem is not None:
            size = limits.mem * MIB
            groupfs.write_number(group / "memory.max", size, unit=groupfs.PAGE)
            # Half a job is of no use to anybody; and a job that is over its limit
            # shall not go on into swap.
            groupfs.write_if_there(group / "memory.oom.group", "1")
            groupfs.write_if_there(group / "memory.swap.max", "0")

        if limits.cpu is not None:
            groupfs.write_number(group / "cpu.weight", limits.cpu)

        if limits.cpus is not None:
            quota = max(1000, round(limits.cpus * _PERIOD))
            groupfs.write_text(group / QUOTA_FILE, f"{quota} {_PERIOD}")

        if limits.pids is not None:
            groupfs.write_number(group / "pids.max", limits.pids)

        if io is not None:
            for file in _present(group, _WEIGHTS):
                groupfs.write_number(file, io)


def find_base(mount: Path, *, own: Path | None) -> Base | str:
    """Return the base for a daemon in the group *own* of the hierarchy at *mount*.

    That is its own group, if it is alone there and may divide it, else the root of the
    hierarchy, for root. Returns why there is none otherwise.
    """
    if own is not None and own != mount and _is_ours(own):
        return Base.of(own)

    if _may_divide(mount):
        return Base.of(mount)

    if os.geteuid() != 0:
        return "not root, and no cgroup is delegated to the daemon"

    return f"{mount} cannot be written"


def own_group(mount: Path, *, proc: Path = Path("/proc")) -> Path | None:
    """Return the version 2 group in which we are; None if that cannot be seen."""
    with suppress(OSError):
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            number, _, path = line.split(":", 2)

            if number == "0" and ".." not in path:
                return mount / path.strip("/")

    return None


def _is_ours(group: Path) -> bool:
    """Whether *group* may be divided, and holds nobody but us."""
    with suppress(OSError, ValueError):
        inside = {*map(int, (group / groupfs.PROCS).read_text().split())}
        return _may_divide(group) and inside <= {os.getpid()}

    return False


def _may_divide(group: Path) -> bool:
    return all(
        os.access(group / name, os.W_OK, effective_ids=True)
        for name in ("", groupfs.PROCS, ENABLED)
    )


def _present(group: Path, names: Iterable[str]) -> list[Path]:
    return [group / name for name in names if (group / name).exists()]
