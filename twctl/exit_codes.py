"""The exit codes of `twctl`, as scripts depend on them."""

import errno
import os
from enum import IntEnum
from typing import Final

from teleworkerd.protocol.errors import (
    ErrorCode,
    LaunchFailed,
    PermissionDenied,
    RequestError,
)
from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import JobState, LaunchStage
from twctl.profile import BadSetting
from twctl.render import print_error


class ExitCode(IntEnum):
    """What is not a job's own code."""

    OK = 0
    FAILED = 1  # a verb other than run was refused
    USAGE = 2
    TIMED_OUT = 124
    OURS = 125  # twctl, the connection or the server failed
    NOT_EXECUTABLE = 126
    NOT_FOUND = 127
    INTERRUPTED = 130
    STDOUT_CLOSED = 141


# What a refusal means for a verb other than run.
OF_ERROR: Final[dict[ErrorCode, ExitCode]] = {
    ErrorCode.INVALID_REQUEST: ExitCode.FAILED,
    ErrorCode.JOB_NOT_FOUND: ExitCode.FAILED,
    ErrorCode.AMBIGUOUS_JOB: ExitCode.FAILED,
    ErrorCode.NAME_TAKEN: ExitCode.FAILED,
    ErrorCode.REQUEST_CONFLICT: ExitCode.FAILED,
    ErrorCode.LAUNCH_FAILED: ExitCode.FAILED,
    ErrorCode.LIMIT_REJECTED: ExitCode.FAILED,
    ErrorCode.OFFSET_OUT_OF_RANGE: ExitCode.FAILED,
    ErrorCode.JOB_NOT_ENDED: ExitCode.FAILED,
    ErrorCode.JOB_REMOVED: ExitCode.FAILED,
    ErrorCode.NO_SPACE: ExitCode.OURS,
    ErrorCode.UNAVAILABLE: ExitCode.OURS,
    ErrorCode.TOO_MANY: ExitCode.OURS,
    ErrorCode.PERMISSION_DENIED: ExitCode.FAILED,
    ErrorCode.CANCELLED: ExitCode.OURS,
    ErrorCode.UNSUPPORTED_VERSION: ExitCode.OURS,
    ErrorCode.PROTOCOL_ERROR: ExitCode.OURS,
    ErrorCode.INTERNAL: ExitCode.OURS,
}

_VARIABLE: Final = "TWCTL_EXIT_ERROR"
_NO_SUCH_FILE: Final = frozenset({errno.ENOENT, errno.ENOTDIR})


def ours() -> int:
    """Return the code for our own failures: 125, or what TWCTL_EXIT_ERROR says."""
    text = os.environ.get(_VARIABLE, "")
    # A bad value must not hide the failure that is being reported.
    return int(text) if _is_code(text) else ExitCode.OURS


def check_ours() -> None:
    """Raise `BadSetting` when TWCTL_EXIT_ERROR has a value that is no exit code."""
    text = os.environ.get(_VARIABLE, "")

    if text and not _is_code(text):
        raise BadSetting(
            f"{_VARIABLE}={text!r:.80} is not an exit code; set it to a number from 0"
            " to 255, or not at all"
        )


def _is_code(text: str) -> bool:
    is_short = text.isascii() and text.isdigit() and len(text) < 4
    return is_short and int(text) < 256


def of_error(error: BaseException, *, is_run: bool) -> int:
    """Return the code with which a verb ends that raised *error*."""
    if isinstance(error, LaunchFailed) and is_run:
        return _of_details(error)

    if isinstance(error, PermissionDenied) and is_run and "user" in error.details:
        return ExitCode.NOT_EXECUTABLE

    if isinstance(error, BadSetting) and not is_run:
        return ExitCode.USAGE

    if is_run or not isinstance(error, RequestError):
        return ours()

    code = OF_ERROR[error.code]
    return ours() if code is ExitCode.OURS else code


def of_status(status: JobStatus) -> int | None:
    """Return the code of the job itself; None when it has not ended."""
    if status.exit_code is not None:
        return status.exit_code

    if status.error is not None:
        return of_launch(status.error.stage, status.error.errno)

    return ours() if status.state.is_final else None


def of_launch(stage: LaunchStage, number: int) -> int:
    """Return the code for a command that could not be started, as a shell's."""
    match stage:
        case LaunchStage.EXEC if number in _NO_SUCH_FILE:
            return ExitCode.NOT_FOUND
        case LaunchStage.EXEC | LaunchStage.WORKDIR | LaunchStage.USER:
            return ExitCode.NOT_EXECUTABLE
        case (
            LaunchStage.SPOOL
            | LaunchStage.CGROUP
            | LaunchStage.FORK
            | LaunchStage.ISOLATION
        ):
            return ours()


def job_code(status: JobStatus) -> int:
    """Return the code to end with for a job; says so where it has none."""
    code = of_status(status)

    if code is None:
        print_error(f"job {status.id} has not ended yet; it is {status.state}")
        return ExitCode.FAILED

    if status.exit_code is None:
        print_error(_why_no_code(status))

    return code


def _why_no_code(status: JobStatus) -> str:
    if status.error is not None:
        return f"job {status.id} could not be started: {status.error.message}"

    if status.state is JobState.LOST:
        return (
            f"job {status.id} was lost: how it ended is not known;"
            f" its output is still there: twctl tail {status.id}"
        )

    return f"job {status.id} ended without an exit code ({status.reason})"


def _of_details(error: LaunchFailed) -> int:
    number = error.details.get("errno")

    try:
        stage = LaunchStage(str(error.details.get("stage")))
    except ValueError:  # of a newer server
        return ours()

    return of_launch(stage, number if isinstance(number, int) else 0)
