"""Every process of a job is found and ended, however it is tracked."""

import signal
from pathlib import Path

import pytest

from teleworkerd.cgroups import CgroupDriver
from teleworkerd.protocol.spec import Limits
from tests.cgroups.conftest import Detect
from tests.cgroups.jobs import eventually, family, read_line, run_python, running


pytestmark = pytest.mark.cgroup

# Each process forks the next and ends, as fast as it can.
RELAY = """
import os
os.write(1, b"started\\n")
while True:
    if os.fork():
        os._exit(0)
"""


def test_tree_is_found(tracking_driver: CgroupDriver, job_id: str) -> None:
    """A child that was forked twice and has its own session belongs to the job."""
    job = tracking_driver.create(job_id, Limits())

    with family(job, job_id=job_id) as (pids, _):
        assert pids == job.pids()


def test_tree_is_killed(tracking_driver: CgroupDriver, job_id: str) -> None:
    """Killing ends the whole tree; what nobody has reaped yet is not alive."""
    job = tracking_driver.create(job_id, Limits())

    with family(job, job_id=job_id):
        job.kill()

        eventually(lambda: job.pids() == set(), what="the tree is dead")


def test_limited_tree_is_killed(tracking_driver: CgroupDriver, job_id: str) -> None:
    """A job with groups of its own is killed in the same way."""
    job = tracking_driver.create(job_id, Limits(cpu=1))

    with family(job, job_id=job_id):
        job.kill()

        eventually(lambda: job.pids() == set(), what="the tree is dead")


def test_stopped_tree_is_killed(tracking_driver: CgroupDriver, job_id: str) -> None:
    """Killing ends processes that are stopped."""
    job = tracking_driver.create(job_id, Limits())

    with family(job, job_id=job_id):
        job.signal(signal.SIGSTOP)
        job.kill()

        eventually(lambda: job.pids() == set(), what="the tree is dead")


def test_signal_reaches_all(tracking_driver: CgroupDriver, job_id: str) -> None:
    """A signal goes to each process of the tree."""
    job = tracking_driver.create(job_id, Limits())

    with family(job, job_id=job_id):
        job.signal(signal.SIGTERM)

        eventually(lambda: job.pids() == set(), what="SIGTERM has ended the tree")


@pytest.mark.parametrize("tracking", ["unified", "freezer"])
def test_fork_relay_is_killed_at_once(
    detect_with: Detect, tracking: str, job_id: str
) -> None:
    """Processes that fork faster than one can look are ended by one call."""
    job = detect_with("cpu", tracking).create(job_id, Limits())

    with running(job, *run_python(RELAY)) as process:
        read_line(process)
        job.kill()

        eventually(lambda: job.pids() == set(), what="the relay has ended")


def test_other_jobs_live_on(tracking_driver: CgroupDriver, job_id: str) -> None:
    """Killing one job leaves another alone."""
    other_id = f"{job_id}-2"
    job = tracking_driver.create(job_id, Limits())
    other = tracking_driver.create(other_id, Limits())

    with (
        family(other, job_id=other_id) as (others, _),
        family(job, job_id=job_id),
    ):
        job.kill()
        eventually(lambda: job.pids() == set(), what="the tree is dead")

        assert others == other.pids()


@pytest.mark.parametrize("tracking", ["unified", "freezer"])
def test_busy_group_is_removed_later(
    detect_with: Detect, tracking: str, job_id: str
) -> None:
    """Groups with a live process cannot be removed; without one they can."""
    job = detect_with("cpu", "memory", tracking).create(job_id, Limits(mem=64))

    with family(job, job_id=job_id):
        assert not job.remove()

        job.kill()
        eventually(lambda: job.pids() == set(), what="the tree is dead")

        assert job.remove()


def test_removed_twice(tracking_driver: CgroupDriver, job_id: str) -> None:
    """What is missing is gone."""
    job = tracking_driver.create(job_id, Limits(cpu=50))

    assert job.remove()
    assert job.remove()
    assert set() == job.pids()


def test_gone_groups_can_be_killed(tracking_driver: CgroupDriver, job_id: str) -> None:
    """Killing and signalling a job that is gone does nothing."""
    job = tracking_driver.create(job_id, Limits())
    job.remove()

    job.kill()
    job.signal(signal.SIGTERM)


def test_leftover_is_found(tracking_driver: CgroupDriver, job_id: str) -> None:
    """The tree of an earlier daemon is found by the job's id, and ended."""
    with family(tracking_driver.create(job_id, Limits()), job_id=job_id) as (pids, _):
        leftover = tracking_driver.leftover(job_id)

        assert leftover is not None
        assert pids == leftover.pids()

        leftover.kill()
        eventually(lambda: leftover.pids() == set(), what="the leftover is dead")
        eventually(leftover.remove, what="the leftover is gone")

        assert tracking_driver.leftover(job_id) is None


def test_leftovers_are_listed(tracking_driver: CgroupDriver, job_id: str) -> None:
    """Of which jobs anything is left is found by one look."""
    job = tracking_driver.create(job_id, Limits())
    limited_id = f"{job_id}-2"
    limited = tracking_driver.create(limited_id, Limits(cpu=50))

    with family(job, job_id=job_id), family(limited, job_id=limited_id):
        assert {job_id, limited_id} <= tracking_driver.leftovers()

        job.kill()
        limited.kill()
        eventually(lambda: job.pids() | limited.pids() == set(), what="both are dead")
        eventually(job.remove, what="the groups are gone")
        eventually(limited.remove, what="those that limit, too")

    assert tracking_driver.leftovers().isdisjoint({job_id, limited_id})


def test_groups_below_are_removed(
    driver: CgroupDriver, job_id: str, hierarchies: dict[str, Path]
) -> None:
    """Groups that the job has made below its own are removed with it."""
    job = driver.create(job_id, Limits(cpu=50))
    (hierarchies["cpu"] / "teleworker" / job_id / "a" / "b").mkdir(parents=True)

    assert job.remove()


def test_frozen_below_is_killed(
    detect_with: Detect, job_id: str, hierarchies: dict[str, Path]
) -> None:
    """A process that its own job has frozen, in a group below, is ended."""
    job = detect_with("cpu", "freezer").create(job_id, Limits())
    below = hierarchies["freezer"] / "teleworker" / job_id / "below"

    with family(job, job_id=job_id) as (_, first):
        below.mkdir()
        (below / "cgroup.procs").write_text(str(first))
        (below / "freezer.state").write_text("FROZEN")
        job.kill()

        eventually(lambda: job.pids() == set(), what="the frozen process is dead")


def test_stray_is_killed(
    driver: CgroupDriver, job_id: str, hierarchies: dict[str, Path]
) -> None:
    """A process that left the group that tracks it is held by those that limit it."""
    job = driver.create(job_id, Limits(mem=64))

    with family(job, job_id=job_id) as (pids, first):
        (hierarchies["unified"] / "cgroup.procs").write_text(str(first))

        assert pids == job.pids()

        job.kill()
        eventually(lambda: job.pids() == set(), what="the stray is dead")
