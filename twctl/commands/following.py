"""Follows a job: what it writes goes to us, our signals go to it."""

import asyncio
from dataclasses import dataclass, replace
from typing import Final

from teleworkerd.protocol.errors import TooMany
from teleworkerd.protocol.types import JobSpec, JobState, JobStatus, Stream
from twctl.client import Client, RemoteJob
from twctl.commands.copying import Copy, copy_output
from twctl.commands.forwarding import Forwarder
from twctl.commands.loop import run_loop
from twctl.exit_codes import ExitCode, job_code
from twctl.lookback import Wanted
from twctl.moments import Moment, nanoseconds
from twctl.profile import Profile
from twctl.render import not_applied, print_notice, print_warning


BOTH: Final = Copy({Stream.STDOUT: 1, Stream.STDERR: 2}, Wanted(follow=True))


@dataclass(frozen=True, slots=True)
class Tail:
    """What to read of a job, and how it shall end."""

    job: str
    copy: Copy
    since: Moment | None = None
    until: Moment | None = None
    exit_code: bool = False
    reconnect: bool = True


def tail_job(profile: Profile, tail: Tail) -> int:
    """Copy what *tail* asks for and return the exit code."""
    return run_loop(_tail(profile, tail))


def run_and_follow(
    profile: Profile, spec: JobSpec, request_id: str | None, *, reconnect: bool
) -> int:
    """Start a job, copy both outputs, and return the job's own code."""
    return run_loop(_run(_client(profile, reconnect=reconnect), spec, request_id))


def _client(profile: Profile, *, reconnect: bool) -> Client:
    retry_for = None if reconnect else 0
    return Client(profile, retry_for=retry_for, notice=print_notice, warn=print_warning)


async def _tail(profile: Profile, tail: Tail) -> int:
    async with _client(profile, reconnect=tail.reconnect) as client:
        # Whatever is asked is asked of one job, though its name may pass to another.
        job = client.job(await client.job(tail.job).resolve())
        status = await copy_output(job, _with_times(client, tail))

        if tail.exit_code and status is None:
            status = await job.status()

    if status is not None and (tail.copy.wanted.follow or tail.exit_code):
        _tell_what_may_be_missing(status)

    return job_code(status) if status is not None and tail.exit_code else ExitCode.OK


async def _run(client: Client, spec: JobSpec, request_id: str | None) -> int:
    async with client:
        forwarder = Forwarder(client)

        with forwarder:
            try:
                job = await client.start(spec, request_id=request_id)
                forwarder.begin(job)
                _tell_not_applied(job)
                status = await _follow(job)
            except asyncio.CancelledError:
                if forwarder.detached_by is None:
                    raise

                return 128 + forwarder.detached_by
            finally:
                await forwarder.end()

    _tell_what_may_be_missing(status)
    return job_code(status)


def _tell_not_applied(job: RemoteJob) -> None:
    for warning in not_applied(job.not_applied):
        print_warning(warning)


async def _follow(job: RemoteJob) -> JobStatus:
    """Copy both outputs of *job* until it has ended; return its status."""
    try:
        return await copy_output(job, BOTH) or await job.wait()
    except TooMany as error:
        # Or it would be started once more.
        raise TooMany(
            f"job {job.id} was started and goes on, but cannot be followed: {error};"
            f" 'twctl wait {job.id}'",
            error.details,
        ) from error


def _with_times(client: Client, tail: Tail) -> Copy:
    """Return what to copy, with the times that it means on the server's clock."""
    now = client.now()
    since, until = (
        None if moment is None else nanoseconds(moment, now=now)
        for moment in (tail.since, tail.until)
    )
    return replace(
        tail.copy, wanted=replace(tail.copy.wanted, since=since, until=until)
    )


def _tell_what_may_be_missing(status: JobStatus) -> None:
    if status.state is JobState.LOST:
        print_notice(f"job {status.id} was lost: there may have been more output")
    elif status.truncated:
        print_notice(
            f"job {status.id}: a process outside it still held its output when it"
            " ended; there may have been more"
        )
