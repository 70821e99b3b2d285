"""What is known of a job that runs here: who it is, how it started and ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.spec import Limits
from teleworkerd.protocol.status import LaunchFailure, Usage
from teleworkerd.protocol.types import (
    AtMost,
    InputEndReason,
    Nanoseconds,
    Offset,
    Reason,
    Text,
    Word,
)


class LaunchError(TeleworkerError):
    """The command could not be started; *limit* names one that was the cause.

    *failed_at* is when it was given up, where that is known.
    """

    def __init__(
        self,
        failure: LaunchFailure,
        *,
        limit: str | None = None,
        failed_at: int | None = None,
    ) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.limit = limit
        self.failed_at = failed_at


class LaunchLost(TeleworkerError):
    """The command has run, or may have, and nobody can say how it ended."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the name, the number of the certificate, the address."""

    name: Word
    serial: Word
    peer: Word


@dataclass(frozen=True, slots=True)
class JobIdentity:
    """Which job it is, whose, and by which request it was made."""

    id: Word
    owner: Word
    request_id: Word
    created_at: Nanoseconds


@dataclass(frozen=True, slots=True)
class Launched:
    """The command runs: its first process, when, as whom, within what.

    `not_applied` says of limits that were asked for and are not in force why.
    """

    pid: int
    started_at: Nanoseconds
    user: Word
    applied: Limits = Limits()
    not_applied: Annotated[Mapping[Word, Text], AtMost(16)] = field(
        default_factory=dict
    )


@dataclass(frozen=True, slots=True)
class InputFacts:
    """Who sends to a job's stdin, and how many bytes it has taken.

    `turn` counts the senders; it is 0 before the first. `ended` says why no more is
    taken.
    """

    turn: Offset = 0
    sender: Word = ""
    offset: Offset = 0
    ended: InputEndReason | None = None


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """Why and when a job that never ran was given up."""

    failure: LaunchFailure
    failed_at: Nanoseconds


@dataclass(frozen=True, slots=True)
class LossRecord:
    """Why nobody knows how a job ended."""

    why: Text


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """How a job that ran has ended, in full.

    `exit_code` is as in `JobStatus`. `stdout` and `stderr` are the ends of the
    streams, of which so many bytes were dropped; the spools are complete otherwise,
    unless `truncated` says that the last bytes of a pipe could not be waited for.
    `stopped` says that it was to be over, whatever it then ended by.

    The rest of it is added later, as a `Postscript`.
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
    stopped: bool = False
    failed_sync: bool = False
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Postscript:
    """What is added to an exit record when it is found out; what is there stays.

    The SHA-256 of what was kept, in hex; that the job was `stopped`, at the very
    end; that the disk failed to take some of it.
    """

    stdout_sha256: Word | None = None
    stderr_sha256: Word | None = None
    stopped: bool = False
    failed_sync: bool = False

    def added_to(self, record: ExitRecord) -> ExitRecord:
        """Return *record* with this."""
        return replace(
            record,
            stdout_sha256=record.stdout_sha256 or self.stdout_sha256,
            stderr_sha256=record.stderr_sha256 or self.stderr_sha256,
            stopped=self.stopped or record.stopped,
            failed_sync=self.failed_sync or record.failed_sync,
        )
