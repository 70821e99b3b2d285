"""What a job really used."""

from pathlib import Path

import pytest

from teleworkerd.cgroups import CgroupDriver, v1usage
from teleworkerd.protocol.spec import Limits
from teleworkerd.protocol.status import Usage
from tests.cgroups.conftest import Detect
from tests.cgroups.jobs import family, run_python, running


BURN = """
import time
begin = time.process_time()
while time.process_time() - begin < 0.2:
    pass
"""
GREEDY = """
import mmap
data = mmap.mmap(-1, 64 << 20)
for offset in range(0, len(data), 4096):
    data[offset] = 1
"""


@pytest.mark.cgroup
def test_cpu_time_of_ended_processes(driver: CgroupDriver, job_id: str) -> None:
    """CPU time is counted, and kept when the process has ended."""
    job = driver.create(job_id, Limits())

    with running(job, *run_python(BURN), job_id=job_id) as process:
        assert process.wait() == 0
        seconds = job.usage().cpu_seconds

        assert seconds is not None
        assert 0.2 <= seconds < 1


@pytest.mark.cgroup
def test_out_of_memory(driver: CgroupDriver, job_id: str) -> None:
    """A job over its memory is killed by the kernel, which is counted."""
    job = driver.create(job_id, Limits(mem=32))

    with running(job, *run_python(GREEDY), job_id=job_id) as process:
        assert process.wait() == -9
        usage = job.usage()

        assert usage.oom_kills == 1
        assert usage.memory_peak_bytes == 32 << 20
        assert usage.processes == 0


@pytest.mark.cgroup
def test_unknown_is_none(detect_with: Detect, job_id: str) -> None:
    """A job without groups of its own has no numbers but its processes."""
    job = detect_with("cpu", "memory").create(job_id, Limits())

    with family(job, job_id=job_id):
        assert Usage(processes=3) == job.usage()


def test_io_per_device(tmp_path: Path) -> None:
    """Bytes are summed over devices, by the layer that counted most of each."""
    (tmp_path / "blkio.throttle.io_service_bytes").write_text(
        "7:0 Read 100\n7:0 Write 0\n7:0 Sync 100\n"
        "254:0 Read 5\n254:0 Write 7\nTotal 112\n"
    )
    (tmp_path / "blkio.bfq.io_service_bytes_recursive").write_text(
        "7:0 Read 60\n7:0 Write 40\nTotal 100\n"
    )

    assert v1usage.io_bytes(tmp_path) == (105, 47)


def test_io_that_nobody_counts(tmp_path: Path) -> None:
    """A kernel that lists no device does not count, whatever the total says."""
    (tmp_path / "blkio.throttle.io_service_bytes_recursive").write_text("Total 0\n")

    assert v1usage.io_bytes(tmp_path) == (None, None)


def test_cpu_mounted_with_cpuacct(tmp_path: Path) -> None:
    """Where cpuacct is in the same hierarchy, its nanoseconds count."""
    (tmp_path / "cpuacct.usage").write_text("1500000000\n")

    assert v1usage.fill(Usage(cpu_seconds=9), {"cpu": tmp_path}).cpu_seconds == 1.5


def test_kernel_that_does_not_count_oom_kills(tmp_path: Path) -> None:
    """What an old kernel does not say is unknown, not zero."""
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\n")
    (tmp_path / "memory.max_usage_in_bytes").write_text("4096\n")

    assert Usage(memory_peak_bytes=4096) == v1usage.fill(Usage(), {"memory": tmp_path})
