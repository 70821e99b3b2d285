"""The cgroup hierarchies of the host, as the tests look at them."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest


ROOT: Final = Path("/sys/fs/cgroup")
CONTROLLERS: Final = ("blkio", "cpu", "memory")


def group(controller: str, job: str = "") -> Path:
    """Return the directory of *job*, or of all jobs, in a hierarchy."""
    return ROOT / controller / "teleworker" / job


def left_of(jobs: Iterable[str]) -> list[Path]:
    """Return the directories that any of *jobs* has in any hierarchy."""
    return [
        directory
        for job in jobs
        for pattern in (f"*/teleworker/{job}", f"teleworker/{job}")
        for directory in ROOT.glob(pattern)
    ]


def weight_file(controller_group: Path) -> Path:
    """Return the file with the I/O weight; the test is skipped where none is."""
    for name in ("blkio.bfq.weight", "blkio.weight"):
        if (controller_group / name).exists():
            return controller_group / name

    pytest.skip("this kernel has no I/O weights in cgroups v1")


def remove_empty_roots(before: set[Path]) -> None:
    """Remove the groups `teleworker` that are not among *before*, if empty."""
    for root in set(ROOT.glob("*/teleworker")) - before:
        with suppress(OSError):  # somebody else's daemon has jobs in it
            root.rmdir()
