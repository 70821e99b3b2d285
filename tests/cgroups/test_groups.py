"""Which groups a job joins, and which values the kernel then holds."""

import contextlib
import errno
import os
import subprocess
from pathlib import Path

import pytest

from teleworkerd.cgroups import (
    CgroupDriver,
    CgroupError,
    UnsupportedLimit,
    detect,
    groupfs,
)
from teleworkerd.cgroups.v1 import V1Driver
from teleworkerd.protocol.spec import Limits
from tests.cgroups.conftest import LIMITING, Detect, mounted
from tests.cgroups.jobs import family


pytestmark = pytest.mark.cgroup


def unchecked(limit: str, value: int) -> Limits:
    """Return limits that the class itself would refuse to make."""
    limits = Limits()
    object.__setattr__(limits, limit, value)
    return limits


def placement(pid: int) -> dict[str, str]:
    """Return the group of *pid* per controller; version 2 is called unified."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    fields = [line.split(":", 2) for line in lines]
    return {
        name: group
        for _, names, group in fields
        for name in (names or "unified").split(",")
    }


def groups_of(job_id: str, hierarchies: dict[str, Path]) -> list[Path]:
    return [path for root in hierarchies.values() for path in root.rglob(job_id)]


def test_prepared_with_full_weight(
    driver: CgroupDriver, hierarchies: dict[str, Path]
) -> None:
    """The group of all jobs has weight and shares 1000, in each controller."""
    driver.prepare()

    assert read(hierarchies["cpu"] / "teleworker" / "cpu.shares") == "1000"
    assert read(weight_file(hierarchies["blkio"] / "teleworker")) == "1000"
    assert (hierarchies["memory"] / "teleworker").is_dir()


def test_prepare_restores_values(
    driver: CgroupDriver, hierarchies: dict[str, Path]
) -> None:
    """Values that somebody has changed are set again."""
    shares = hierarchies["cpu"] / "teleworker" / "cpu.shares"
    shares.write_text("17")

    driver.prepare()

    assert read(shares) == "1000"


def test_unlimited_job_joins_common_groups(
    driver: CgroupDriver, job_id: str, hierarchies: dict[str, Path]
) -> None:
    """A job without limits is in `teleworker` itself, and tracked in its own group."""
    job = driver.create(job_id, Limits())

    with family(job, job_id=job_id) as (pids, _):
        for pid in pids:
            found = placement(pid)

            for name in LIMITING:
                assert found[name].endswith(f"/{hierarchies[name].name}/teleworker")

            assert found["unified"].endswith(f"/teleworker/{job_id}")


@pytest.mark.parametrize(
    "limits",
    [Limits(mem=64), Limits(cpu=5), Limits(io=5), Limits(cpus=0.5), Limits(pids=9)],
)
def test_any_limit_gives_own_groups(
    driver: CgroupDriver, job_id: str, limits: Limits, weighing_disk: None
) -> None:
    """A job with one limit has its own group in all three controllers."""
    job = driver.create(job_id, limits)

    with family(job, job_id=job_id) as (pids, _):
        for pid in pids:
            found = placement(pid)

            for name in (*LIMITING, "unified"):
                assert found[name].endswith(f"/teleworker/{job_id}")

    assert limits == job.applied


@pytest.mark.parametrize(("percent", "stored"), [(1, "10"), (50, "500"), (100, "1000")])
def test_shares_and_weight(
    driver: CgroupDriver,
    job_id: str,
    hierarchies: dict[str, Path],
    percent: int,
    stored: str,
) -> None:
    """1 to 100 percent become 10 to 1000 shares, and the same weight."""
    job = driver.create(job_id, Limits(cpu=percent, io=percent))
    cpu, blkio = (
        hierarchies[name] / "teleworker" / job_id for name in ("cpu", "blkio")
    )

    assert stored == read(cpu / "cpu.shares")
    assert stored == read(weight_file(blkio))
    assert job.remove()


def test_memory_in_megabytes(
    driver: CgroupDriver, job_id: str, hierarchies: dict[str, Path]
) -> None:
    """Memory is limited in units of 2**20 bytes, and with swap to the same."""
    job = driver.create(job_id, Limits(mem=100))
    memory = hierarchies["memory"] / "teleworker" / job_id

    assert str(100 << 20) == read(memory / "memory.limit_in_bytes")
    assert str(100 << 20) == read(memory / "memory.memsw.limit_in_bytes")
    assert job.remove()


@pytest.mark.parametrize(
    ("limit", "value"),
    [("mem", 1 << 50), ("mem", 1 << 44), ("mem", 0), ("cpu", 101), ("io", -1)],
)
def test_value_out_of_range(
    driver: CgroupDriver,
    job_id: str,
    hierarchies: dict[str, Path],
    limit: str,
    value: int,
) -> None:
    """A value that the kernel would store as another is refused beforehand."""
    with pytest.raises(UnsupportedLimit, match=f"limit {limit} .* is not from"):
        driver.create(job_id, unchecked(limit, value))

    assert groups_of(job_id, hierarchies) == []


def test_kernel_that_stores_another_value(
    driver: CgroupDriver, hierarchies: dict[str, Path]
) -> None:
    """Every value is read back: 2**70 is taken, and 0 is stored."""
    file = hierarchies["memory"] / "teleworker" / "memory.limit_in_bytes"

    with pytest.raises(CgroupError, match=r"wrote \d+ to .*stored '0'") as caught:
        groupfs.write_number(file, 1 << 70, unit=groupfs.PAGE)

    assert (file, str(1 << 70), 0) == (
        caught.value.path,
        caught.value.value,
        caught.value.errno,
    )


def test_kernel_that_refuses_a_value(
    driver: CgroupDriver, hierarchies: dict[str, Path]
) -> None:
    """An error says which value went to which file, and what the kernel said."""
    file = weight_file(hierarchies["blkio"] / "teleworker")

    with pytest.raises(CgroupError) as caught:
        groupfs.write_number(file, 1001)

    assert caught.value.errno == errno.ERANGE
    assert str(caught.value) == (
        f"cannot write '1001' to {file}: Numerical result out of range (ERANGE)"
    )


def test_refusal_leaves_nothing(
    driver: V1Driver, job_id: str, hierarchies: dict[str, Path]
) -> None:
    """When the last step of several fails, what the others made is removed."""
    tracked = hierarchies["unified"] / "teleworker" / job_id
    tracked.mkdir(parents=True)

    with pytest.raises(CgroupError, match="File exists") as caught:
        driver.create(job_id, Limits(cpu=50))

    assert tracked == caught.value.path
    assert [tracked] == groups_of(job_id, hierarchies)
    tracked.rmdir()


def test_id_in_use(
    driver: CgroupDriver, job_id: str, hierarchies: dict[str, Path]
) -> None:
    """A second job of the same id is refused, and the first keeps its groups."""
    job = driver.create(job_id, Limits(cpu=50))
    groups = groups_of(job_id, hierarchies)

    with pytest.raises(CgroupError, match="File exists"):
        driver.create(job_id, Limits(cpu=60))

    assert groups == groups_of(job_id, hierarchies)
    assert job.remove()


@pytest.mark.parametrize("bad", ["", ".", "..", "../x", "a/b", "a\n", "-a", "a" * 65])
def test_id_that_is_no_name(driver: CgroupDriver, bad: str) -> None:
    """An id that would lead elsewhere is refused."""
    with pytest.raises(CgroupError, match="cannot be the name of a group"):
        driver.create(bad, Limits())

    with pytest.raises(CgroupError, match="cannot be the name of a group"):
        driver.leftover(bad)


def test_groups_are_restored(
    driver: CgroupDriver, job_id: str, hierarchies: dict[str, Path]
) -> None:
    """When another daemon has removed `teleworker`, a job makes it again."""
    unlimited = driver.create(f"{job_id}-2", Limits())
    assert unlimited.remove()
    driver.close()
    assert not (hierarchies["cpu"] / "teleworker").exists()

    job = driver.create(job_id, Limits(cpu=50))

    assert read(hierarchies["cpu"] / "teleworker" / "cpu.shares") == "1000"
    assert job.remove()


def test_common_groups_are_restored_at_start(
    driver: CgroupDriver, job_id: str, hierarchies: dict[str, Path]
) -> None:
    """A job without limits finds `teleworker` even if it was removed meanwhile."""
    job = driver.create(job_id, Limits())
    driver.close()

    with family(job, job_id=job_id) as (_, first):
        assert placement(first)["cpu"].endswith("/teleworker")

    assert read(weight_file(hierarchies["blkio"] / "teleworker")) == "1000"


def test_failed_open_leaves_none_open(driver: CgroupDriver, job_id: str) -> None:
    """When one of the groups cannot be joined, no descriptor stays open."""
    job = driver.create(job_id, Limits(cpu=50))
    before = descriptors()
    job.remove()

    with pytest.raises(CgroupError, match=r"cannot open .*cgroup\.procs"):
        job.open_procs()

    assert before == descriptors()


def test_close_leaves_used_groups(
    driver: CgroupDriver, job_id: str, hierarchies: dict[str, Path]
) -> None:
    """Closing removes `teleworker`, except where somebody still uses it."""
    job = driver.create(job_id, Limits(cpu=50))
    driver.close()
    assert (hierarchies["cpu"] / "teleworker" / job_id).is_dir()

    job.remove()
    driver.close()

    assert not any((path / "teleworker").exists() for path in hierarchies.values())


def test_nothing_is_left_over(driver: CgroupDriver, job_id: str) -> None:
    """A job that has no groups left is not a leftover."""
    assert driver.leftover(job_id) is None
    assert driver.leftovers() == set()


def test_no_leftovers_without_groups(
    driver: CgroupDriver, hierarchies: dict[str, Path]
) -> None:
    """Nor is there one where another daemon has just removed `teleworker`."""
    driver.close()
    assert not (hierarchies["cpu"] / "teleworker").exists()

    assert driver.leftovers() == set()


def test_leftover_limits(
    driver: CgroupDriver, job_id: str, hierarchies: dict[str, Path]
) -> None:
    """Groups that limit are a leftover even when the one that tracks is gone."""
    driver.create(job_id, Limits(cpu=50))
    (hierarchies["unified"] / "teleworker" / job_id).rmdir()

    leftover = driver.leftover(job_id)

    assert driver.leftovers() == {job_id}
    assert leftover is not None
    assert Limits() == leftover.applied
    assert leftover.remove()
    assert groups_of(job_id, hierarchies) == []


def test_controller_that_is_not_mounted(
    detect_with: Detect, job_id: str, hierarchies: dict[str, Path]
) -> None:
    """A host without memory applies the other limits, and says why not this one."""
    driver = detect_with("cpu", "blkio", "unified")
    driver.prepare()
    why = "cgroup v1 controller memory is not mounted"
    job = driver.create(job_id, Limits(mem=64, cpu=50), defaults=Limits(pids=9))

    assert (job.applied, job.not_applied) == (Limits(cpu=50), {"mem": why})
    assert job.remove()

    with pytest.raises(UnsupportedLimit, match=why) as caught:
        driver.create(job_id, Limits(mem=64, cpu=50), strict=True)

    assert caught.value.limit == "mem"
    assert groups_of(job_id, hierarchies) == []


def test_on_the_host_itself(job_id: str, hierarchies: dict[str, Path]) -> None:
    """On the real roots, groups are where an operator looks for them."""
    driver = detect()
    driver.prepare()
    job = driver.create(job_id, Limits(io=10))

    with family(job, job_id=job_id) as (_, first):
        assert (mounted()["blkio"] / "teleworker" / job_id / "cgroup.procs").exists()
        assert f"/teleworker/{job_id}" == placement(first)["blkio"]

    driver.close()


def weight_file(group: Path) -> Path:
    (file,) = (*group.glob("blkio.weight"), *group.glob("blkio.bfq.weight"))
    return file


def descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def read(file: Path) -> str:
    return file.read_text().strip()


def test_deep_groups(tmp_path: Path) -> None:
    """Groups that are nested deeper than Python may recurse are all found."""
    group = tmp_path
    depth = 1500  # of names as short as they can be

    with contextlib.chdir(tmp_path):
        for _ in range(depth):
            os.mkdir("a")  # noqa: PTH102  relative to where we are
            os.chdir("a")

    try:
        found = groupfs.descend(group)
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "a"], check=True)

    assert len(found) == depth + 1
    assert found[-1] == group
