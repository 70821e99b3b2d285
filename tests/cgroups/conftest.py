"""Hierarchies of the real kernel in which a test is alone."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from teleworkerd.cgroups import CgroupDriver, detect, open_driver
from teleworkerd.cgroups.v1 import V1Driver


ROOT: Final = Path("/sys/fs/cgroup")
LIMITING: Final = ("blkio", "cpu", "memory")
TRACKING: Final = {"unified": ("unified",), "freezer": ("freezer",), "proc": ()}

Detect = Callable[..., CgroupDriver]


def mounted() -> dict[str, Path]:
    """Return where each controller is mounted; version 2 is called unified."""
    found = {}

    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, options, *_ = line.split()

        if kind in {"cgroup", "cgroup2"}:
            names = options.split(",") if kind == "cgroup" else ["unified"]
            found.update(dict.fromkeys(names, Path(point)))

    return found


@pytest.fixture
def job_id() -> str:
    """An id that no other test uses."""
    return str(uuid.uuid4())


@pytest.fixture
def hierarchies(job_id: str) -> Iterator[dict[str, Path]]:
    """A group per hierarchy, which plays the root of that hierarchy."""
    if os.geteuid() != 0:
        pytest.skip("making groups needs root")

    points = mounted()

    if "memory" not in points:
        pytest.skip("cgroup v1 is not mounted")

    alone = {
        name: points[name] / f"teleworker-test-{job_id}"
        for name in (*LIMITING, "pids", "freezer", "unified")
    }

    for group in alone.values():
        group.mkdir()

    yield alone

    left = []

    for group in alone.values():
        for path, _, _ in os.walk(group, topdown=False):
            if Path(path) not in {group, group / "teleworker"}:
                left.append(path)

            Path(path).rmdir()

    assert left == []


@pytest.fixture
def detect_with(hierarchies: dict[str, Path], tmp_path: Path) -> Detect:
    """Detects on a host that has only the named hierarchies mounted."""

    def detect_on(*names: str) -> CgroupDriver:
        table = tmp_path / "mounts"
        lines = [
            f"cgroup2 {hierarchies[name]} cgroup2 rw 0 0\n"
            if name == "unified"
            else f"cgroup {hierarchies[name]} cgroup rw,relatime,{name} 0 0\n"
            for name in names
        ]
        table.write_text("".join(lines))
        return detect(ROOT, mounts=table)

    return detect_on


@pytest.fixture
def host() -> Iterator[CgroupDriver]:
    """The driver of this host, whichever that is."""
    if os.geteuid() != 0:
        pytest.skip("making groups needs root")

    driver = open_driver()
    assert driver.reason is None
    yield driver
    driver.close()


@pytest.fixture
def weighing_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a disk of this machine had a scheduler that knows weights."""
    monkeypatch.setattr("teleworkerd.cgroups.v1.why_no_weights", lambda: None)


@pytest.fixture
def driver(detect_with: Detect) -> V1Driver:
    """A driver with all controllers that tracks in version 2."""
    driver = detect_with(*LIMITING, "pids", "unified")

    assert isinstance(driver, V1Driver)
    driver.prepare()
    return driver


@pytest.fixture(params=list(TRACKING))
def tracking_driver(
    detect_with: Detect, request: pytest.FixtureRequest
) -> CgroupDriver:
    """A driver per way of tracking."""
    driver = detect_with(*LIMITING, "pids", *TRACKING[request.param])
    driver.prepare()

    assert request.param == driver.tracking
    return driver
