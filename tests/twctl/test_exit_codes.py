"""The exit codes that scripts depend on."""

import errno

import pytest

from teleworkerd.protocol.errors import (
    ConnectionClosed,
    ErrorCode,
    InvalidRequest,
    JobNotFound,
    LaunchFailed,
    LimitRejected,
    NameTaken,
    Unavailable,
)
from teleworkerd.protocol.status import LaunchFailure
from teleworkerd.protocol.types import JobState, LaunchStage, Reason
from tests.twctl.fake_output import make_status
from twctl.exit_codes import OF_ERROR, job_code, of_error, of_launch, of_status, ours


LAUNCHES = [
    (LaunchStage.EXEC, errno.ENOENT, 127),
    (LaunchStage.EXEC, errno.ENOTDIR, 127),
    (LaunchStage.EXEC, errno.EACCES, 126),
    (LaunchStage.EXEC, errno.ENOEXEC, 126),
    (LaunchStage.WORKDIR, errno.ENOENT, 126),
    (LaunchStage.USER, errno.EPERM, 126),
    (LaunchStage.CGROUP, errno.ENOENT, 125),
    (LaunchStage.SPOOL, errno.ENOSPC, 125),
    (LaunchStage.FORK, errno.EAGAIN, 125),
]


def test_every_error_has_a_code() -> None:
    """No code of the protocol is without an exit code."""
    assert set(OF_ERROR) == set(ErrorCode)


@pytest.mark.parametrize(("stage", "number", "code"), LAUNCHES)
def test_launch_failures(stage: LaunchStage, number: int, code: int) -> None:
    """Refusal, record and exit code agree on why a command did not start."""
    refusal = LaunchFailed("no", {"stage": str(stage), "errno": number, "job": "x"})
    status = make_status(
        state=JobState.FAILED,
        exit_code=None,
        reason=Reason.LAUNCH,
        error=LaunchFailure(stage, number, "no"),
    )

    assert code == of_launch(stage, number)
    assert code == of_error(refusal, is_run=True)
    assert code == of_status(status)


def test_launch_failure_of_a_newer_server() -> None:
    """A stage that we do not know is a failure of ours."""
    assert of_error(LaunchFailed("", {"stage": "warp"}), is_run=True) == 125


@pytest.mark.parametrize(
    ("error", "of_run", "of_other"),
    [
        (InvalidRequest("x"), 125, 1),
        (JobNotFound("x"), 125, 1),
        (NameTaken("x"), 125, 1),
        (LimitRejected("x"), 125, 1),
        (Unavailable("x"), 125, 125),
        (ConnectionClosed("x"), 125, 125),
    ],
)
def test_refusals(error: Exception, of_run: int, of_other: int) -> None:
    """A refused run is 125, another refused verb 1, a lost connection 125."""
    assert of_run == of_error(error, is_run=True)
    assert of_other == of_error(error, is_run=False)


def test_own_code() -> None:
    """A job's own code is passed on, 125 included."""
    assert of_status(make_status(exit_code=125)) == 125


def test_lost_job(capsys: pytest.CaptureFixture[str]) -> None:
    """A lost job has no code: 125 and a line that says so."""
    status = make_status(state=JobState.LOST, exit_code=None, reason=Reason.LOST)

    assert job_code(status) == 125
    assert "was lost: how it ended is not known" in capsys.readouterr().err


def test_running_job(capsys: pytest.CaptureFixture[str]) -> None:
    """A job that has not ended has no code to give."""
    assert job_code(make_status(state=JobState.RUNNING, exit_code=None)) == 1
    assert "has not ended yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "code"),
    [("99", 99), ("0", 0), ("", 125), ("256", 125), ("x", 125), ("9" * 5000, 125)],
    ids=lambda value: str(value)[:5],
)
def test_moved(monkeypatch: pytest.MonkeyPatch, value: str, code: int) -> None:
    """TWCTL_EXIT_ERROR moves our code, if it is one; never a job's."""
    monkeypatch.setenv("TWCTL_EXIT_ERROR", value)

    assert code == ours()
    assert code == of_error(ConnectionClosed("x"), is_run=False)
    assert code == of_launch(LaunchStage.CGROUP, 0)
    assert of_status(make_status(exit_code=125)) == 125
