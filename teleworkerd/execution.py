"""What is known of a job that runs here: who it is, how it started and ended."""

from dataclasses import dataclass

from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.types import (
    LaunchFailure,
    Limits,
    Nanoseconds,
    Offset,
    Reason,
    Usage,
    Word,
)


class LaunchError(TeleworkerError):
    """The command could not be started; *limit* names one that was the cause."""

    def __init__(self, failure: LaunchFailure, *, limit: str | None = None) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.limit = limit


@dataclass(frozen=True, slots=True)
class JobIdentity:
    """Which job it is, whose, and by which request it was made."""

    id: Word
    owner: Word
    request_id: Word
    created_at: Nanoseconds


@dataclass(frozen=True, slots=True)
class Launched:
    """The command runs: its first process, when, as whom, within what."""

    pid: int
    started_at: Nanoseconds
    user: Word
    applied: Limits = Limits()


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """How a job that ran has ended, in full.

    `exit_code` is as in `JobStatus`. `stdout` and `stderr` are the ends of the
    streams, of which so many bytes were dropped; the spools are complete otherwise,
    unless `truncated` says that the last bytes of a pipe could not be waited for.
    The SHA-256 of what was kept, in hex, is added when it is known.
    """

    launched: Launched
    ended_at: Nanoseconds
    reason: Reason
    exit_code: int | None = None
    signal: int | None = None
    stdout: Offset = 0
    stderr: Offset = 0
    stdout_dropped: Offset = 0
    stderr_dropped: Offset = 0
    stdout_sha256: Word | None = None
    stderr_sha256: Word | None = None
    truncated: bool = False
    usage: Usage = Usage()
