"""A terminal that goes away while `twctl` runs there: a closed window, a lost SSH."""

import signal
from pathlib import Path

from tests.e2e.commandline import Twctl
from tests.e2e.sitting import Sit, hang_up


def test_run_ends_with_the_job(sit: Sit, alice: Twctl, tmp_path: Path) -> None:
    """The job is told so, as at a terminal of its own; its code is that of the call."""
    errors = tmp_path / "errors"
    run = "exec twctl run --name hung -f -it -- sh -c 'echo up; exec sleep 1000'"
    child = sit(line=f"{run} 2> {errors}")
    child.expect("up")

    code = hang_up(child)

    assert code == 128 + signal.SIGHUP
    assert "error:" not in errors.read_text()
    assert alice.ended("hung")["signal"] == signal.SIGHUP


def test_job_that_writes_is_told(sit: Sit, alice: Twctl) -> None:
    """It is, though a shell keeps the signal, and its output has nowhere to go."""
    child = sit(line="trap : HUP; twctl run --name busy -f -it -- yes; :")
    child.expect("y")

    hang_up(child)

    assert alice.ended("busy")["signal"] == signal.SIGHUP


def test_quiet_job_is_told(sit: Sit, alice: Twctl) -> None:
    """So is one that writes nothing: no keys come from there any more."""
    line = "twctl run --name quiet -f -it -- sh -c 'echo up; exec sleep 1000'"
    child = sit(line=f"trap : HUP; {line}; :")
    child.expect("up")

    hang_up(child)

    assert alice.ended("quiet")["signal"] == signal.SIGHUP


def test_quiet_job_of_one_who_attached(sit: Sit, alice: Twctl) -> None:
    """It is told as well."""
    job = alice.run("-it", "--", "sh", "-c", "echo up; exec sleep 1000")
    child = sit(line=f"trap : HUP; twctl attach {job}; :")
    child.expect("up")

    hang_up(child)

    assert alice.ended(job)["signal"] == signal.SIGHUP


def test_attached(sit: Sit, alice: Twctl) -> None:
    """So it is for one who has attached to the job."""
    job = alice.run("-it", "--", "sh", "-c", "echo up; exec sleep 1000")
    child = sit("attach", job)
    child.expect("up")

    assert hang_up(child) == 128 + signal.SIGHUP
    assert alice.ended(job)["signal"] == signal.SIGHUP


def test_watcher(sit: Sit, alice: Twctl) -> None:
    """Who only watched a job has no part in its fate."""
    job = alice.run("-it", "--", "yes")
    child = sit("attach", "--no-stdin", job)
    child.expect("y")

    hang_up(child)

    assert alice.status(job)["state"] == "running"
    alice("kill", job)


def test_top(sit: Sit) -> None:
    """It ends by the signal."""
    child = sit("top", "-i", "100ms")
    child.expect("q ends")

    assert hang_up(child) == 128 + signal.SIGHUP
