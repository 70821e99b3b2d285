"""How jobs with limits end: the reason, what they used, and that nothing is left."""

import errno
import signal
from typing import Final

import pytest

from teleworkerd.keeper.orders import SignalJob
from teleworkerd.protocol.spec import Limits
from teleworkerd.protocol.types import LaunchStage, Reason
from tests.cgroups.jobs import run_python
from tests.e2e.groups import left_of
from tests.e2e.waiting import PATIENCE
from tests.keeper.kept import KeeperProcess


pytestmark = [pytest.mark.cgroup, pytest.mark.v2]

LIMITS: Final = Limits(mem=50, cpu=50, pids=20)
EATER: Final = "x = bytearray(200 << 20)"
RUNS: Final = 500 if PATIENCE == 1 else 50
PYTHON: Final = "/usr/bin/python3"  # one that nobody's jobs may run


def python(program: str) -> list[str]:
    """Return the command that runs *program* as any account."""
    return [PYTHON, *run_python(program)[1:]]


@pytest.mark.parametrize("how", ["exit", "kill", "oom", "timeout"])
def test_use_is_known_and_groups_are_gone(keeper: KeeperProcess, how: str) -> None:
    """However a job ends, what it used is recorded, and no group of it is left."""
    command = {
        "exit": python("x = bytes(20 << 20)"),
        "oom": python(EATER),
    }.get(how, ["sleep", "1000"])
    timeout = 0.5 if how == "timeout" else None
    job = keeper.launch(*command, limits=LIMITS, timeout=timeout)
    launched = job.launched().launched

    if how == "kill":
        keeper.send(SignalJob(job.id, signal.SIGKILL, tree=True))

    record = job.exited()

    assert launched.applied == LIMITS
    assert (
        record.reason
        == {
            "exit": Reason.EXITED,
            "kill": Reason.KILLED,
            "oom": Reason.OOM,
            "timeout": Reason.TIMEOUT,
        }[how]
    )
    assert record.exit_code == {"exit": 0, "timeout": 124}.get(how, 137)
    assert record.usage.cpu_seconds is not None
    assert (record.usage.memory_peak_bytes or 0) > 0
    assert bool(record.usage.oom_kills) is (how == "oom")
    assert left_of([job.id]) == []


def test_start_that_failed(keeper: KeeperProcess) -> None:
    """A command that is not there leaves no group behind."""
    job = keeper.launch("/does/not/exist", limits=LIMITS)
    failure = job.failed()

    assert (failure.stage, failure.errno) == (LaunchStage.EXEC, errno.ENOENT)
    assert left_of([job.id]) == []


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_started_and_killed_at_once(keeper: KeeperProcess) -> None:
    """Many times started and killed at once: each ends by that, or never ran."""
    jobs = []

    for _ in range(RUNS):
        job = keeper.launch("sleep", "1000", limits=LIMITS)
        keeper.send(SignalJob(job.id, signal.SIGKILL, tree=True))
        jobs.append(job)

    for job in jobs:
        job.launched()
        record = job.exited()
        assert (record.reason, record.exit_code) == (Reason.KILLED, 137)

    assert left_of([job.id for job in jobs]) == []
