"""The exit record of a job: made, written, and sealed with what is found out later."""

import asyncio
import logging
import signal
from dataclasses import dataclass
from functools import partial
from typing import Final

from teleworkerd.execution import ExitRecord, Launched
from teleworkerd.jobdir import JobDirectory
from teleworkerd.keeper.orders import SealJob
from teleworkerd.keeper.spools import Spools
from teleworkerd.protocol.status import Usage
from teleworkerd.protocol.types import Reason, Stream
from teleworkerd.reserve import Reserve
from teleworkerd.spare import Spare


log = logging.getLogger(__name__)

_RETRY: Final = 1.0  # seconds
_TIMEOUT_CODE: Final = 124  # what timeout(1) reports

# The SHA-256 of nothing. To compute it would load OpenSSL, and each fork pay for it.
_EMPTY: Final = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@dataclass(frozen=True, slots=True)
class End:
    """The end of a job as its keeper saw it.

    `code` is that of its main process, the number of a signal if it is negative;
    `cause` is why it was to be ended before, if it was. `truncated`, `stopped` and
    `usage` are as in `ExitRecord`.
    """

    code: int
    ended_at: int
    cause: Reason | None
    truncated: bool
    stopped: bool
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
        stopped=end.stopped,
        usage=end.usage,
    )


async def write_exit(
    directory: JobDirectory, record: ExitRecord, spare: Spare, reserve: Reserve
) -> None:
    """Write *record*, with a descriptor of *spare* and room of *reserve*.

    Tried again until it is written.
    """
    is_told = False

    while True:
        try:
            with spare.lent():
                reserve.spend(partial(directory.write_exit, record))
        except (OSError, MemoryError) as error:
            if not is_told:
                log.error(
                    "job %s: its exit record must wait: %s", directory.path.name, error
                )

            is_told = True
            await asyncio.sleep(_RETRY)
        else:
            return


def seal(directory: JobDirectory, order: SealJob, reserve: Reserve) -> str | None:
    """Add what *order* says to the exit record; return why not, if not.

    On a full disk there is *reserve*. Where there is no record that can be read, none
    is made.
    """
    record = directory.read_exit()

    if record is None:
        return "it has no exit record to seal"

    sealed = order.postscript.added_to(record)

    try:
        reserve.spend(partial(directory.write_exit, sealed))
    except OSError as error:
        return f"its exit record cannot be sealed: {error.strerror}"

    return None


def _reason(number: int | None, usage: Usage) -> Reason:
    if number == signal.SIGKILL and usage.oom_kills:
        return Reason.OOM

    return Reason.EXITED if number is None else Reason.SIGNALED
