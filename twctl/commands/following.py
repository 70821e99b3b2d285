"""Follows a job: what it writes goes to us, our signals go to it."""

import asyncio
import errno
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from teleworkerd.protocol.errors import TooMany
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import JobState, Stream
from twctl.client import Client
from twctl.commands.answers import Again
from twctl.commands.attaching import Desk, sending, sizing
from twctl.commands.copying import Copy, copy_output, copy_outputs
from twctl.commands.forwarding import Forwarder
from twctl.commands.loop import run_loop
from twctl.commands.prefixing import Board, prefixes
from twctl.commands.replay import can_show
from twctl.daily import warn_daily
from twctl.exit_codes import ExitCode, job_code
from twctl.job import RemoteJob
from twctl.lookback import Wanted
from twctl.moments import Moment, nanoseconds
from twctl.pretty import SHORT_ID, ending
from twctl.profile import Profile
from twctl.render import (
    has_colours,
    is_screen,
    not_applied,
    print_notice,
    print_warning,
)


BOTH: Final = Copy({Stream.STDOUT: 1, Stream.STDERR: 2}, Wanted(follow=True))
BOTH_AS_JSON: Final = Copy(
    {Stream.STDOUT: 1, Stream.STDERR: 1},
    Wanted(follow=True, times=True),
    interleave=True,
    json=True,
)


@dataclass(frozen=True, slots=True)
class Tail:
    """What to read of jobs, and how it shall end."""

    jobs: tuple[str, ...]
    copy: Copy
    since: Moment | None = None
    until: Moment | None = None
    exit_code: bool = False
    reconnect: bool = True


def tail_job(profile: Profile, tail: Tail) -> int:
    """Copy what *tail* asks for and return the exit code."""
    return run_loop(_tail(profile, tail))


@dataclass(frozen=True, slots=True)
class Follow:
    """How to follow a job: what to copy, and what of ours it gets.

    *sends* is whether it gets what comes on our stdin, *has_terminal* whether it has a
    terminal, which is to be as large as ours. With *keeps_open* the end of ours is not
    the end of what it is sent. Without *forwards*, signals end the following alone.
    """

    copy: Copy = BOTH
    sends: bool = False
    has_terminal: bool = False
    keeps_open: bool = False
    forwards: bool = True
    reconnect: bool = True


def run_and_follow(
    profile: Profile, spec: JobSpec, request_id: str | None, follow: Follow
) -> int:
    """Start a job, copy both outputs, and return the job's own code."""
    return run_loop(_run(profile, spec, request_id, follow))


def attach(profile: Profile, ref: str, follow: Follow) -> int:
    """Follow a job that was started before, and return its own code."""
    return run_loop(_attach(profile, ref, follow))


def _client(
    profile: Profile, *, reconnect: bool, notice: Callable[[str], None] = print_notice
) -> Client:
    retry_for = None if reconnect else 0
    return Client(profile, retry_for=retry_for, notice=notice, warn=warn_daily)


async def _tail(profile: Profile, tail: Tail) -> int:
    async with _client(profile, reconnect=tail.reconnect) as client:
        # Whatever is asked is asked of one job, though its name may pass to another.
        ids = {await client.job(ref).resolve(): ref for ref in tail.jobs}
        jobs = {client.job(job_id): ref for job_id, ref in ids.items()}
        copy = _with_times(client, tail)

        if len(jobs) == 1:
            [job] = jobs
            copy = replace(copy, progress=can_show(copy.descriptors.values()))
            ends = [await copy_output(job, copy)]
        else:
            ends = await _tail_many(jobs, copy)

        if tail.exit_code:
            ends = [
                end or await job.status() for job, end in zip(jobs, ends, strict=True)
            ]

    for end in ends:
        if end is not None and (tail.copy.wanted.follow or tail.exit_code):
            _tell_what_may_be_missing(end)

    codes = [job_code(end) for end in ends if end is not None and tail.exit_code]
    return max(codes, default=ExitCode.OK)


async def _tail_many(
    jobs: Mapping[RemoteJob, str], copy: Copy
) -> list[JobStatus | None]:
    """Copy of all *jobs*, which were called so, each line with whose it is."""
    labels = {
        job: ref[:SHORT_ID] if ref.lower() == job.id else ref
        for job, ref in jobs.items()
    }
    heads = prefixes([*labels.values()], colours=has_colours(sys.stdout))
    board = Board()

    def one(job: RemoteJob) -> Copy:
        head = b"" if copy.json else heads[labels[job]]
        return replace(copy, named=True, target=lambda fd: board.target(fd, head))

    def ended(job: RemoteJob, status: JobStatus | None) -> None:
        if status is not None and copy.wanted.follow and not copy.json:
            print_notice(f"job {labels[job]} {ending(status)}")

    try:
        return await copy_outputs([(job, one(job)) for job in jobs], ended=ended)
    finally:
        board.close()


async def _run(
    profile: Profile, spec: JobSpec, request_id: str | None, follow: Follow
) -> int:
    desk = Desk()

    if follow.sends and follow.has_terminal:
        desk.take_keys()

    async def start() -> RemoteJob:
        job = await client.start(spec, request_id=request_id)
        _tell_not_applied(job)
        return job

    async with _client(
        profile, reconnect=follow.reconnect, notice=desk.notice
    ) as client:
        return await _follow(client, start, desk, follow)


async def _attach(profile: Profile, ref: str, follow: Follow) -> int:
    desk = Desk()

    async with _client(
        profile, reconnect=follow.reconnect, notice=desk.notice
    ) as client:
        status = await client.job(ref).status()
        sends = follow.sends and status.takes_input and not status.state.is_final
        copy = follow.copy

        if sends and status.tty:
            desk.take_keys()

        if desk.has_keys:
            print_notice(f"attached to job {status.id}; Ctrl-] three times detaches")

        if desk.has_keys and is_screen(sys.stdout):
            again = partial(Again, answers=desk.answers, end=status.stdout.end)
            copy = replace(copy, around=again)

        # Nobody hangs up a terminal for good who only comes by.
        follow = replace(
            follow,
            copy=copy,
            sends=sends,
            has_terminal=status.tty,
            keeps_open=status.tty,
        )

        async def find() -> RemoteJob:
            return client.job(status.id)

        return await _follow(client, find, desk, follow)


async def _follow(
    client: Client,
    find: Callable[[], Awaitable[RemoteJob]],
    desk: Desk,
    follow: Follow,
) -> int:
    """Follow the job that *find* returns to its end, and return its code."""
    forwarder = Forwarder(client)
    is_on_terminal = os.isatty(1)

    with forwarder if follow.forwards else nullcontext():
        try:
            job = await find()
            forwarder.begin(job)

            async with AsyncExitStack() as stack:
                if follow.has_terminal:
                    await stack.enter_async_context(sizing(job, at_once=True))

                if follow.sends:
                    stack.enter_context(desk.given_over())
                    await stack.enter_async_context(
                        sending(
                            job,
                            desk,
                            keeps_open=follow.keeps_open,
                            detach=forwarder.detach,
                            hang_up=forwarder.hang_up,
                        )
                    )

                status = await _copy(job, follow.copy)
        except asyncio.CancelledError:
            if forwarder.detached_by is not None:
                return 128 + forwarder.detached_by

            if (left := forwarder.left) is not None:
                print_notice(
                    f"detached; 'twctl attach {left.id}' comes back", apart=True
                )
                return ExitCode.OK

            raise
        except OSError as error:
            # A terminal that has gone away says so before the SIGHUP comes.
            is_gone = is_on_terminal and error.errno == errno.EIO

            if is_gone and follow.forwards and client.is_up:
                forwarder.hang_up()

            raise
        finally:
            await forwarder.end()

    _tell_what_may_be_missing(status)
    return job_code(status)


def _tell_not_applied(job: RemoteJob) -> None:
    for warning in not_applied(job.not_applied):
        print_warning(warning)


async def _copy(job: RemoteJob, copy: Copy) -> JobStatus:
    """Copy the output of *job* until it has ended; return its status."""
    try:
        return await copy_output(job, copy) or await job.wait()
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
