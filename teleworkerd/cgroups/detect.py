"""Finds out what this host's control groups can do, by trying."""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from teleworkerd.cgroups import groupfs
from teleworkerd.cgroups.base import CgroupDriver, CgroupError, Controller, Limit
from teleworkerd.cgroups.freezer import STATE_FILE, FreezerTracker
from teleworkerd.cgroups.proctree import ProcTracker
from teleworkerd.cgroups.tracking import Tracker
from teleworkerd.cgroups.unified import KILL_FILE, UnifiedTracker
from teleworkerd.cgroups.unlimited import UnlimitedDriver
from teleworkerd.cgroups.v1 import V1Driver


# What a controller must have in a group below the root of its hierarchy.
_FILES: Final[dict[Controller, tuple[str, ...]]] = {
    "blkio": ("blkio.weight", "blkio.bfq.weight"),  # by the age of the kernel
    "cpu": ("cpu.shares",),
    "memory": ("memory.limit_in_bytes",),
}
_LIMITS: Final[dict[Limit, Controller]] = {
    "mem": "memory",
    "cpu": "cpu",
    "io": "blkio",
}


@dataclass(frozen=True, slots=True)
class _Mount:
    """One cgroup hierarchy of the mount table; version 2 is called `unified`."""

    point: Path
    controllers: frozenset[str]  # and mount options, which none is called like


@dataclass(frozen=True, slots=True)
class _Finding:
    """Where groups can be made, the file found in one, and what is wrong if any."""

    mount: Path | None = None
    file: str | None = None
    reason: str | None = None


def detect(
    root: Path = Path("/sys/fs/cgroup"),
    *,
    mounts: Path = Path("/proc/self/mounts"),
    proc: Path = Path("/proc"),
) -> CgroupDriver:
    """Return the driver for the hierarchies that are mounted at or below *root*.

    What it makes to find out it removes again. Never raises for what is missing:
    the driver then says why it cannot limit.
    """
    table = [
        mount for mount in _mount_table(mounts) if mount.point.is_relative_to(root)
    ]
    tracker = _tracker(table, proc)
    findings = {
        controller: _find(table, controller, files)
        for controller, files in _FILES.items()
    }
    supports = {limit: findings[name].reason for limit, name in _LIMITS.items()}

    if None not in supports.values():
        return UnlimitedDriver(tracker, reason=_why_none(table, root, supports))

    return V1Driver(
        tracker,
        mounts={c: found.mount for c, found in findings.items() if found.mount},
        supports=supports,
        weight_file=findings["blkio"].file,
    )


def _mount_table(file: Path) -> list[_Mount]:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return []

    table = []

    for line in lines:
        _, point, kind, options, *_ = line.split(" ")

        if kind in {"cgroup", "cgroup2"}:
            # The kernel writes a blank and its like as \040.
            path = point.encode().decode("unicode_escape").encode("latin-1").decode()
            controllers = options.split(",") if kind == "cgroup" else ["unified"]
            table.append(_Mount(Path(path), frozenset(controllers)))

    return table


def _tracker(table: list[_Mount], proc: Path) -> Tracker:
    unified = _find(table, "unified", (KILL_FILE,))

    if unified.mount and unified.file:
        return UnifiedTracker(unified.mount)

    freezer = _find(table, "freezer", (STATE_FILE,))

    if freezer.mount and freezer.file:
        return FreezerTracker(freezer.mount)

    return ProcTracker(proc)


def _find(table: list[_Mount], controller: str, files: tuple[str, ...]) -> _Finding:
    """Try each mount of *controller* until one lets us make a group."""
    reason = f"cgroup v1 controller {controller} is not mounted"

    for mount in table:
        if controller not in mount.controllers:
            continue

        try:
            with _trial_group(mount.point) as group:
                present = [name for name in files if (group / name).exists()]
        except CgroupError as error:
            reason = str(error)
            continue

        if present:
            return _Finding(mount.point, present[0])

        missing = " or ".join(files)
        why = ": the kernel has no BFQ" if controller == "blkio" else f" in {group}"
        return _Finding(mount.point, reason=f"no {missing}{why}")

    return _Finding(reason=reason)


@contextmanager
def _trial_group(mount: Path) -> Iterator[Path]:
    """Lend the group `teleworker`, which is removed if nobody else uses it."""
    group = mount / groupfs.TOP
    existed = group.is_dir()
    groupfs.make(group, exist_ok=True)

    try:
        if not os.access(group, os.W_OK, effective_ids=True):
            raise CgroupError(
                f"{group} is not writable", path=group, errno=errno.EACCES
            )

        yield group
    finally:
        if not existed:
            groupfs.remove_if_unused(group)


def _why_none(
    table: list[_Mount], root: Path, supports: Mapping[Limit, str | None]
) -> str:
    mounted = frozenset[str]().union(*(mount.controllers for mount in table))

    if mounted.isdisjoint(_FILES):
        which = "version 2 only" if "unified" in mounted else "none"
        return f"no cgroup v1 controller is mounted below {root} ({which})"

    if os.geteuid() != 0:
        return f"not root, and no group can be made below {root}"

    return "; ".join(dict.fromkeys(filter(None, supports.values())))
