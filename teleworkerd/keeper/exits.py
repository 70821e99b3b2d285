"""The exit record of a job: made, written, and sealed with its digests later."""

import asyncio
import logging
import signal
from dataclasses import dataclass, replace
from typing import Final

from teleworkerd.execution import ExitRecord, Launched
from teleworkerd.jobdir import JobDirectory
from teleworkerd.keeper.messages import SealJob
from teleworkerd.keeper.spools import Spools
from teleworkerd.protocol.types import Reason, Stream, Usage


log = logging.getLogger(__name__)

_RETRY: Final = 1.0  # seconds
_TIMEOUT_CODE: Final = 124  # what timeout(1) reports

# The SHA-256 of nothing. To compute it would load OpenSSL, and each fork pay for it.
_EMPTY: Final = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@dataclass(frozen=True, slots=True)
class End:
    """The end of a job as its keeper saw it.

    `code` is that of its main process, the number of a signal if it is negative;
    `cause` is why it was to be ended before, if it was. `truncated` and `usage` are
    as in `ExitRecord`.
    """

    code: int
    ended_at: int
    cause: Reason | None
    truncated: bool
    usage: Usage


def exit_record(launched: Launched, spools: Spools, end: End) -> ExitRecord:
    """Return the record of a job, once *spools* are settled."""
    number = -end.code if end.code < 0 else None
    exit_code = end.code if number is None else 128 + number
    stdout, stderr = spools.ends
    stdout_dropped = spools.dropped_of(Stream.STDOUT)
    stderr_dropped = spools.dropped_of(Stream.STDERR)
    return ExitRecord(
        launched=launched,
        ended_at=end.ended_at,
        reason=end.cause or _reason(number, end.usage),
        exit_code=_TIMEOUT_CODE if end.cause is Reason.TIMEOUT else exit_code,
        signal=number,
        stdout=stdout,
        stderr=stderr,
        stdout_dropped=stdout_dropped,
        stderr_dropped=stderr_dropped,
        stdout_sha256=_EMPTY if stdout == stdout_dropped else None,
        stderr_sha256=_EMPTY if stderr == stderr_dropped else None,
        truncated=end.truncated,
        usage=end.usage,
    )


async def write_exit(directory: JobDirectory, record: ExitRecord) -> None:
    """Write *record*, trying again while the disk is full."""
    is_told = False

    while True:
        try:
            directory.write_exit(record)
        except OSError as error:
            if not is_told:
                log.error(
                    "job %s: its exit record must wait: %s", directory.path.name, error
                )

            is_told = True
            await asyncio.sleep(_RETRY)
        else:
            return


def seal(directory: JobDirectory, message: SealJob) -> None:
    """Add the digests of *message* to the exit record in *directory*.

    Where there is none that can be read, none is made.
    """
    record = directory.read_exit()

    if record is None:
        log.warning("job %s has no exit record to seal", message.job)
        return

    sealed = replace(
        record,
        stdout_sha256=message.stdout or record.stdout_sha256,
        stderr_sha256=message.stderr or record.stderr_sha256,
    )

    try:
        directory.write_exit(sealed)
    except OSError as error:
        log.error("job %s: its exit record stays unsealed: %s", message.job, error)


def _reason(number: int | None, usage: Usage) -> Reason:
    if number == signal.SIGKILL and usage.oom_kills:
        return Reason.OOM

    return Reason.EXITED if number is None else Reason.SIGNALED
