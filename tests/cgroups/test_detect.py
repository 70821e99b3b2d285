"""What is found out about a host, by trying."""

import os
import tempfile
from pathlib import Path

import pytest

from teleworkerd.cgroups import CgroupError, UnsupportedLimit, detect
from teleworkerd.protocol.spec import Limits
from tests.cgroups.conftest import Detect


NOBODY = 65534


class FakeHost:
    """A mount table whose hierarchies are plain directories.

    Nothing fills a new directory there as the kernel does, so the group `teleworker`
    exists beforehand, with its files.
    """

    def __init__(self, directory: Path) -> None:
        self.root = directory / "cgroup"
        self.root.mkdir()
        self.table = directory / "mounts"
        self.table.write_text("proc /proc proc rw 0 0\n")

    def mount(self, name: str, options: str, *files: str, kind: str = "cgroup") -> Path:
        group = self.root / name / "teleworker"
        group.mkdir(parents=True)

        for file in files:
            (group / file).write_text("1024\n")

        with self.table.open("a") as table:
            point = str(self.root / name).replace(" ", "\\040")
            table.write(f"{kind} {point} {kind} {options} 0 0\n")

        return group


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


def test_controllers_mounted_together(host: FakeHost) -> None:
    """cpu is found where it is mounted together with cpuacct."""
    group = host.mount("cpu,cpuacct", "rw,nosuid,cpu,cpuacct", "cpu.shares")

    driver = detect(host.root, mounts=host.table)
    driver.prepare()

    assert (driver.name, driver.supports["cpu"]) == ("v1", None)
    assert (group / "cpu.shares").read_text() == "1000\n"


@pytest.mark.parametrize("name", ["blkio.weight", "blkio.bfq.weight"])
def test_weight_of_either_kernel(
    host: FakeHost, name: str, weighing_disk: None
) -> None:
    """The weight is set in the file that this kernel has."""
    group = host.mount("blkio", "rw,blkio", name)

    driver = detect(host.root, mounts=host.table)
    driver.prepare()

    assert driver.supports["io"] is None
    assert (group / name).read_text() == "1000\n"


def test_kernel_without_weights(host: FakeHost) -> None:
    """Without BFQ there is no weight: io is refused, other limits are not."""
    host.mount("blkio", "rw,blkio", "blkio.throttle.read_bps_device")
    host.mount("cpu", "rw,cpu", "cpu.shares")

    driver = detect(host.root, mounts=host.table)

    assert driver.supports["io"] == (
        "no blkio.weight or blkio.bfq.weight: the kernel has no BFQ"
    )
    assert driver.supports["cpu"] is None
    assert driver.reason is None


def test_mount_point_with_a_blank(host: FakeHost) -> None:
    """The mount table writes a blank as an escape."""
    group = host.mount("my cpu", "rw,cpu", "cpu.shares")

    detect(host.root, mounts=host.table).prepare()

    assert (group / "cpu.shares").read_text() == "1000\n"


def test_mounts_elsewhere_do_not_count(host: FakeHost) -> None:
    """What is mounted outside of the root is somebody else's."""
    host.mount("cpu", "rw,cpu", "cpu.shares")

    driver = detect(host.root / "other", mounts=host.table)

    assert driver.name == "none"


def test_nothing_mounted(host: FakeHost) -> None:
    """A host without control groups has a driver that says so and limits nothing."""
    driver = detect(host.root, mounts=host.table)

    assert (driver.name, driver.tracking) == ("none", "proc")
    assert driver.reason == (f"no cgroup is mounted below {host.root}")
    assert set(driver.supports.values()) == {driver.reason}


def test_version_2_without_controllers(host: FakeHost) -> None:
    """Version 2 without any controller tracks trees, and limits nothing."""
    group = host.mount("unified", "rw", "cgroup.kill", "cgroup.procs", kind="cgroup2")

    for name in ("cgroup.procs", "cgroup.subtree_control", "cgroup.controllers"):
        (group.parent / name).write_text("")

    driver = detect(host.root, mounts=host.table, proc=host.root)

    assert (driver.name, driver.tracking) == ("none", "unified")
    assert driver.reason is not None
    assert "the kernel has no controller memory of cgroup version 2" in driver.reason


def test_version_2_without_kill(host: FakeHost) -> None:
    """An old version 2 cannot kill a group: the freezer is better."""
    host.mount("unified", "rw", "cgroup.procs", kind="cgroup2")
    host.mount("freezer", "rw,freezer", "freezer.state")

    assert detect(host.root, mounts=host.table).tracking == "freezer"


def test_no_mount_table(tmp_path: Path) -> None:
    """A host without /proc has a driver all the same."""
    assert detect(tmp_path, mounts=tmp_path / "missing").name == "none"


def test_limit_on_a_host_without(host: FakeHost, job_id: str) -> None:
    """Where nothing can be limited, a job that asks for a limit is refused."""
    driver = detect(host.root, mounts=host.table)
    driver.prepare()

    with pytest.raises(UnsupportedLimit, match="no cgroup is mounted") as caught:
        driver.create(job_id, Limits(cpu=50))

    assert (caught.value.limit, caught.value.reason) == ("cpu", driver.reason)
    assert driver.create(job_id, Limits()).applied == Limits()
    driver.close()


def test_file_that_is_missing_in_a_job(host: FakeHost, job_id: str) -> None:
    """When a limit cannot be written, the groups made so far are removed."""
    cpu = host.mount("cpu", "rw,cpu", "cpu.shares")
    memory = host.mount("memory", "rw,memory", "memory.limit_in_bytes")
    driver = detect(host.root, mounts=host.table)

    with pytest.raises(CgroupError, match=r"cannot write '500' to .*No such file"):
        driver.create(job_id, Limits(cpu=50))

    assert not (cpu / job_id).exists()
    assert not (memory / job_id).exists()


def test_group_that_others_own() -> None:
    """A hierarchy that we may not write to is not used, and the reason says so."""
    if os.geteuid() != 0:
        pytest.skip("becoming nobody needs root")

    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        host = FakeHost(Path(directory))
        host.mount("cpu", "rw,cpu", "cpu.shares")
        os.seteuid(NOBODY)

        try:
            driver = detect(host.root, mounts=host.table)
        finally:
            os.seteuid(0)

        assert driver.name == "none"
        assert driver.reason == f"not root, and no group can be made below {host.root}"


@pytest.mark.cgroup
def test_leaves_nothing(
    detect_with: Detect, hierarchies: dict[str, Path], weighing_disk: None
) -> None:
    """Finding out leaves no group behind."""
    driver = detect_with(*hierarchies)

    assert set(driver.supports.values()) == {None}
    assert (driver.name, driver.tracking, driver.reason) == ("v1", "unified", None)
    assert not any((root / "teleworker").exists() for root in hierarchies.values())


@pytest.mark.cgroup
def test_this_host(hierarchies: dict[str, Path]) -> None:
    """Root on a host with version 1 mounted has memory and CPU limits."""
    driver = detect()

    assert driver.name == "v1"
    assert driver.supports["mem"] is None
    assert driver.supports["cpu"] is None
