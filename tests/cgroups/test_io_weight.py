"""A share of I/O is real: two jobs write to one device."""

import time
from pathlib import Path

import pytest

from teleworkerd.cgroups import CgroupDriver
from teleworkerd.protocol.spec import Limits
from tests.cgroups.jobs import running
from tests.cgroups.loopdev import bfq_device, writer
from tests.e2e.waiting import PATIENCE


START = 1.0 * PATIENCE  # seconds for both writers to start
WINDOW = 3.0  # seconds that count


@pytest.mark.cgroup
@pytest.mark.slow
@pytest.mark.v2
def test_io_10_against_90(host: CgroupDriver, job_id: str, tmp_path: Path) -> None:
    """A job with nine times the share of another writes far more than it."""
    with bfq_device(tmp_path) as device:
        light = host.create(job_id, Limits(io=10), strict=True)
        heavy = host.create(f"{job_id}-90", Limits(io=90), strict=True)
        begin = time.monotonic() + START
        end = begin + WINDOW

        with (
            running(light, *writer(device, half=0, begin=begin, end=end)) as first,
            running(heavy, *writer(device, half=1, begin=begin, end=end)) as second,
        ):
            little, much = (int(job.communicate()[0]) for job in (first, second))

        assert little > 0
        assert much / little > 2
