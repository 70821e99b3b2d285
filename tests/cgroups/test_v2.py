"""Version 2: which part of the hierarchy is ours, and what is written there.

Plain directories stand for groups; the kernel itself is asked in `test_host`.
"""

import os
from pathlib import Path

import pytest

from teleworkerd.cgroups import CgroupError, UnsupportedLimit, detect, v2usage
from teleworkerd.cgroups.disks import NO_WEIGHTS, why_no_weights
from teleworkerd.cgroups.v2 import Base, V2Driver, find_base, own_group
from teleworkerd.protocol.spec import Limits
from teleworkerd.protocol.status import Usage


ALL = "cpuset cpu io memory pids"
FILES = ("cgroup.procs", "cgroup.subtree_control", "cgroup.controllers")


def group(path: Path, *, controllers: str = ALL, procs: str = "") -> Path:
    """Make a group as the kernel would, with these controllers to give away."""
    path.mkdir(parents=True, exist_ok=True)

    for name, text in zip(FILES, (procs, "", controllers), strict=True):
        (path / name).write_text(text)

    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root of a hierarchy."""
    return group(tmp_path / "cgroup")


def driver_on(root: Path, files: dict[str, str], job: str) -> V2Driver:
    """Return a prepared driver, and have the files of *job* there beforehand."""
    group(root / "teleworker")
    driver = V2Driver(Base.of(root))

    for path in (root, root / "teleworker"):
        (path / "cgroup.subtree_control").write_text(ALL)

    driver.prepare()
    (root / "teleworker" / job).mkdir()

    for name, text in files.items():
        (root / "teleworker" / job / name).write_text(text)

    return driver


def test_root_of_the_hierarchy(root: Path) -> None:
    """Root in a group with others takes the root of the hierarchy."""
    session = group(root / "user.slice" / "session-1.scope", procs="1\n2\n")
    base = find_base(root, own=session)

    assert base == Base(root, is_root=True)


def test_delegated_group(root: Path) -> None:
    """A daemon that is alone in its group divides that."""
    service = group(root / "system.slice" / "x.service", procs=f"{os.getpid()}\n")
    (service / "cgroup.events").write_text("populated 1\n")

    assert find_base(root, own=service) == Base(service, is_root=False)


def test_own_group(tmp_path: Path) -> None:
    """Where we are stands in /proc; of a group out of sight nothing is known."""
    (tmp_path / "self").mkdir()
    file = tmp_path / "self" / "cgroup"
    file.write_text("1:memory:/x\n0::/system.slice/y\n")

    assert own_group(Path("/mount"), proc=tmp_path) == Path("/mount/system.slice/y")

    file.write_text("0::/../elsewhere\n")
    assert own_group(Path("/mount"), proc=tmp_path) is None


def test_controllers_that_are_missing(root: Path) -> None:
    """A controller that is not delegated is a reason for the limits that need it."""
    service = group(root / "x.service", controllers="cpu pids")
    (service / "cgroup.events").write_text("populated 1\n")
    lacks = Base.of(service).lacks()

    assert lacks["cpu"] is lacks["cpus"] is lacks["pids"] is None
    assert lacks["mem"] == f"controller memory is not delegated to {service}"
    assert lacks["io"] == f"controller io is not delegated to {service}"


def test_no_controllers_at_all(root: Path, tmp_path: Path) -> None:
    """Without any controller no limit can be had, and the driver says so."""
    group(root, controllers="")
    table = tmp_path / "mounts"
    table.write_text(f"cgroup2 {root} cgroup2 rw 0 0\n")
    driver = detect(root, mounts=table, proc=tmp_path)

    assert driver.name == "none"
    assert "the kernel has no controller memory" in str(driver.reason)


def test_detected(root: Path, tmp_path: Path) -> None:
    """A host with version 2 alone has its driver."""
    table = tmp_path / "mounts"
    table.write_text(f"cgroup2 {root} cgroup2 rw 0 0\n")
    driver = detect(root, mounts=table, proc=tmp_path)

    assert (driver.name, driver.tracking, driver.reason) == ("v2", "unified", None)
    assert driver.supports["mem"] is None


def test_what_cannot_be_enabled(root: Path) -> None:
    """A controller that the kernel does not give is a reason; the others hold."""
    driver = V2Driver(Base.of(root))
    (root / "cgroup.subtree_control").unlink()
    (root / "cgroup.subtree_control").mkdir()

    with pytest.raises(CgroupError, match="Is a directory"):
        driver.prepare()


def test_values(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel is told of each limit."""
    monkeypatch.setattr("teleworkerd.cgroups.v2.why_no_weights", lambda _: None)
    names = ("memory.max", "memory.oom.group", "memory.swap.max", "cpu.weight")
    files = dict.fromkeys((*names, "cpu.max", "pids.max", "io.bfq.weight"), "")
    driver = driver_on(root, files, "job")
    (root / "teleworker" / "job").rename(root / "there")
    limits = Limits(mem=64, cpu=7, io=31, cpus=0.5, pids=9)
    monkeypatch.setattr("teleworkerd.cgroups.groupfs.make", (root / "there").rename)
    job = driver.create("job", limits)
    found = {name: (root / "teleworker" / "job" / name).read_text() for name in files}

    assert (job.applied, job.not_applied) == (limits, {})
    assert found == {
        "memory.max": str(64 << 20),
        "memory.oom.group": "1",
        "memory.swap.max": "0",
        "cpu.weight": "7",
        "cpu.max": "50000 100000",
        "pids.max": "9",
        "io.bfq.weight": "31",
    }


def test_strict(root: Path) -> None:
    """A limit that is not there is refused if that is wanted; nothing is made."""
    group(root, controllers="cpu")
    driver = V2Driver(Base.of(root))

    with pytest.raises(UnsupportedLimit, match="no controller memory"):
        driver.create("job", Limits(mem=64), strict=True)

    assert not (root / "teleworker" / "job").exists()


def test_use(tmp_path: Path) -> None:
    """What the files of a group say of what it used."""
    texts = {
        "cpu.stat": "usage_usec 1500000\nuser_usec 1\n",
        "memory.current": "4096\n",
        "memory.peak": "8192\n",
        "memory.events": "low 0\noom 1\noom_kill 2\n",
        "io.stat": "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=1 wbytes=2\n",
    }

    for name, text in texts.items():
        (tmp_path / name).write_text(text)

    assert v2usage.read(tmp_path, processes=3) == Usage(1.5, 8192, 11, 22, 3, 2, 4096)


def test_use_that_nobody_counts(tmp_path: Path) -> None:
    """A file that is not there is no error: nothing is known."""
    assert v2usage.read(tmp_path, processes=0) == Usage(processes=0)


def test_disks(tmp_path: Path) -> None:
    """Weights count if one disk has BFQ, or the model of io.cost is enabled."""
    for disk, schedulers in (("a", "[none] bfq"), ("b", "mq-deadline [none]")):
        (tmp_path / disk / "queue").mkdir(parents=True)
        (tmp_path / disk / "queue" / "scheduler").write_text(schedulers)

    model = tmp_path / "io.cost.qos"
    assert why_no_weights(model, block=tmp_path) == NO_WEIGHTS

    model.write_text("8:0 enable=1 ctrl=auto\n")
    assert why_no_weights(model, block=tmp_path) is None
    assert why_no_weights(block=tmp_path) == NO_WEIGHTS

    (tmp_path / "b" / "queue" / "scheduler").write_text("none [bfq]")
    assert why_no_weights(block=tmp_path) is None
