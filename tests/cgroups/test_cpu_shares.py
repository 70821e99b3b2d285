"""A share of the CPU is real: two jobs compute on one core."""

import os

import pytest

from teleworkerd.cgroups import CgroupDriver, JobCgroup
from teleworkerd.protocol.spec import Limits
from tests.cgroups.jobs import eventually, read_line, run_python, running


MEASURED = 2.0  # seconds of CPU time, of both together

BURN = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
os.write(1, b"started\\n")
while True:
    pass
"""


def seconds(job: JobCgroup) -> float:
    used = job.usage().cpu_seconds
    assert used is not None
    return used


@pytest.mark.cgroup
@pytest.mark.slow
def test_cpu_10_against_90(driver: CgroupDriver, job_id: str) -> None:
    """A job with nine times the share of another gets nine times the CPU time."""
    core = str(max(os.sched_getaffinity(0)))
    light = driver.create(job_id, Limits(cpu=10))
    heavy = driver.create(f"{job_id}-90", Limits(cpu=90))

    with (
        running(light, *run_python(BURN, core)) as first,
        running(heavy, *run_python(BURN, core)) as second,
    ):
        read_line(first)
        read_line(second)
        before = (seconds(light), seconds(heavy))

        eventually(
            lambda: seconds(light) + seconds(heavy) - sum(before) >= MEASURED,
            what=f"{MEASURED} s of CPU time",
        )
        little, much = seconds(light) - before[0], seconds(heavy) - before[1]

    assert much / little == pytest.approx(9, rel=0.3)
