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
from teleworkerd.cgroups.v1 import PIDS_FILE, QUOTA_FILE, V1Driver
from teleworkerd.cgroups.v2 import V2Driver, find_base, own_group


# What a controller must have in a group below the root of its hierarchy.
_FILES: Final[dict[Controller, tuple[str, ...]]] = {
    "blkio": ("blkio.weight", "blkio.bfq.weight"),  # by the age of the kernel
    "cpu": ("cpu.shares",),
    "memory": ("memory.limit_in_bytes",),
    "pids": (PIDS_FILE,),
}
_LIMITS: Final[dict[Limit, Controller]] = {
    "mem": "memory",
    "cpu": "cpu",
    "io": "blkio",
    "pids": "pids",
}
# Of these, one is enough to limit jobs by version 1.
_OLD: Final = frozenset({"blkio", "cpu", "memory"})


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
    mounted = frozenset[str]().union(*(mount.controllers for mount in table))

    if mounted.isdisjoint(_OLD):
        return _detect_v2(table, root, proc)

    return _detect_v1(table, root, proc)


def open_driver() -> CgroupDriver:
    """Return the driver for this host, ready to be used.

    Where the groups of all jobs cannot be made, jobs run without limits.
    """
    driver = detect()

    try:
        driver.prepare()
    except CgroupError as error:
        return UnlimitedDriver(ProcTracker(), reason=str(error))

    return driver


def _detect_v1(table: list["_Mount"], root: Path, proc: Path) -> CgroupDriver:
    tracker = _tracker(table, proc)
    findings = {
        controller: _find(table, controller, files)
        for controller, files in _FILES.items()
    }
    lacks = {limit: findings[name].reason for limit, name in _LIMITS.items()}
    lacks["cpus"] = lacks["cpu"] or _why_no_quota(findings["cpu"].mount)

    if None not in lacks.values():
        return UnlimitedDriver(tracker, reason=_why_none(root, lacks))

    freezer = _find(table, "freezer", (STATE_FILE,))
    return V1Driver(
        tracker,
        mounts={c: found.mount for c, found in findings.items() if found.mount},
        lacks=lacks,
        weight_file=findings["blkio"].file,
        freezer=None if isinstance(tracker, FreezerTracker) else freezer.mount,
    )


def _detect_v2(table: list["_Mount"], root: Path, proc: Path) -> CgroupDriver:
    mount = next((each for each in table if "unified" in each.controllers), None)

    if mount is None:
        return UnlimitedDriver(
            _tracker(table, proc), reason=f"no cgroup is mounted below {root}"
        )

    base = find_base(mount.point, own=own_group(mount.point, proc=proc))

    if isinstance(base, str):
        return UnlimitedDriver(_tracker(table, proc), reason=base)

    lacks = base.lacks()

    if None not in lacks.values():
        reason = "; ".join(dict.fromkeys(filter(None, lacks.values())))
        return UnlimitedDriver(_tracker(table, proc), reason=reason)

    return V2Driver(base)


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


def _why_no_quota(mount: Path | None) -> str | None:
    """Return why CPU cannot be capped with the hierarchy at *mount*, if so."""
    if mount is None:
        return "cgroup v1 controller cpu is not mounted"

    try:
        with _trial_group(mount) as group:
            is_there = (group / QUOTA_FILE).exists()
    except CgroupError as error:
        return str(error)

    return None if is_there else "the kernel has no CPU quotas (CONFIG_CFS_BANDWIDTH)"


def _why_none(root: Path, lacks: Mapping[Limit, str | None]) -> str:
    if os.geteuid() != 0:
        return f"not root, and no group can be made below {root}"

    return "; ".join(dict.fromkeys(filter(None, lacks.values())))
