"""The job does what its number says, and the plan what its seed does."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos import job
from tests.chaos.history import Truth
from tests.chaos.job import script
from tests.chaos.place import read_ledger
from tests.chaos.plan import HANDS, Kind, plan


QUICK = next(
    number
    for number in range(100)
    if script(number).size("stderr")
    and not script(number).pause
    and not script(number).leaves_child
)


def test_job_is_a_function_of_its_number(tmp_path: Path) -> None:
    """As a program it writes, and ends, as the functions say; and notes that."""
    program = shutil.copy(Path(job.__file__), tmp_path / "job.py")

    done = subprocess.run(
        [sys.executable, "-IS", program, str(QUICK), "request-1"],
        capture_output=True,
        check=False,
        timeout=30,
    )

    todo = script(QUICK)
    assert done.stdout == job.output(QUICK, "stdout", todo.stdout)
    assert done.stderr == job.output(QUICK, "stderr", todo.stderr)
    assert done.returncode == todo.exit_code
    assert read_ledger(tmp_path / job.LEDGER) == Truth(
        starts=("request-1",), ends=frozenset({"request-1"})
    )


@pytest.mark.parametrize("stream", job.STREAMS)
def test_output_has_prefixes(stream: str) -> None:
    """What was written so far does not depend on what will be."""
    assert job.output(1, stream, 1000)[:10] == job.output(1, stream, 10)
    assert job.output(1, stream, 10) != job.output(2, stream, 10)


def test_plan_is_a_function_of_the_seed() -> None:
    """The same seed does the same; a long run has all kinds of faults, in time."""
    faults = plan(1, 600)

    assert faults == plan(1, 600)
    assert faults != plan(2, 600)
    assert {fault.kind for hand in faults for fault in hand} == set(Kind)

    for hand, limits in zip(faults, HANDS, strict=True):
        assert all(0 <= fault.seconds <= limits.most for fault in hand)
        assert all(fault.at + fault.seconds <= 600 for fault in hand)
        ends = [fault.at + fault.seconds for fault in hand]
        assert all(end <= after.at for end, after in zip(ends, hand[1:], strict=False))
