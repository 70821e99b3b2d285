"""Copies a job's output to local descriptors, and signals to the job."""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from teleworkerd.protocol.types import JobSpec, JobState, JobStatus, Stream
from twctl.client import Client, RemoteJob
from twctl.commands.forwarding import Forwarder
from twctl.commands.loop import run_loop
from twctl.exit_codes import ExitCode, job_code
from twctl.link import RETRY_FOR
from twctl.profile import Profile
from twctl.render import print_notice
from twctl.sink import Sink


BOTH: Final = {Stream.STDOUT: 1, Stream.STDERR: 2}


@dataclass(frozen=True, slots=True)
class Tail:
    """What to read of a job, to which descriptors, and how it shall end."""

    job: str
    streams: Mapping[Stream, int]
    offset: int = 0
    follow: bool = False
    exit_code: bool = False
    reconnect: bool = True


def tail_job(profile: Profile, tail: Tail) -> int:
    """Copy what *tail* asks for and return the exit code."""
    return run_loop(_tail(profile, tail))


def run_and_follow(profile: Profile, spec: JobSpec, request_id: str | None) -> int:
    """Start a job, copy both outputs, and return the job's own code."""
    return run_loop(_run(profile, spec, request_id))


async def _tail(profile: Profile, tail: Tail) -> int:
    retry_for = RETRY_FOR if tail.reconnect else 0

    async with Client(profile, retry_for=retry_for, notice=print_notice) as client:
        job = client.job(tail.job)
        await _copy(job, tail.streams, offset=tail.offset, follow=tail.follow)

        if not (tail.exit_code or tail.follow):
            return ExitCode.OK

        status = await (job.wait() if tail.follow else job.status())

    _tell_what_may_be_missing(status)
    return job_code(status) if tail.exit_code else ExitCode.OK


async def _run(profile: Profile, spec: JobSpec, request_id: str | None) -> int:
    async with Client(profile, notice=print_notice) as client:
        forwarder = Forwarder(client)

        with forwarder:
            try:
                job = await client.start(spec, request_id=request_id)
                forwarder.begin(job)
                await _copy(job, BOTH)
                status = await job.wait()
            except asyncio.CancelledError:
                if forwarder.detached_by is None:
                    raise

                return 128 + forwarder.detached_by
            finally:
                await forwarder.end()

    _tell_what_may_be_missing(status)
    return job_code(status)


def _tell_what_may_be_missing(status: JobStatus) -> None:
    if status.state is JobState.LOST:
        print_notice(f"job {status.id} was lost: there may have been more output")
    elif status.truncated:
        print_notice(
            f"job {status.id}: a process outside it still held its output when it"
            " ended; there may have been more"
        )


async def _copy(
    job: RemoteJob,
    streams: Mapping[Stream, int],
    *,
    offset: int = 0,
    follow: bool = True,
) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(_watch(Sink(1)))
            copies = [
                group.create_task(_copy_one(job, stream, Sink(fd), offset, follow))
                for stream, fd in streams.items()
            ]
            await asyncio.wait(copies)
            watch.cancel()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _copy_one(
    job: RemoteJob,
    stream: Stream,
    sink: Sink,
    offset: int,
    follow: bool,  # noqa: FBT001 - private
) -> None:
    chunks = job.output(stream, offset=offset, follow=follow)

    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                await sink.write(chunk.data)
    finally:
        sink.close()


async def _watch(sink: Sink) -> None:
    """Raise `BrokenPipeError` when nobody reads *sink* any more."""
    abandoned = asyncio.Event()
    sink.watch(abandoned.set)

    try:
        await abandoned.wait()
    finally:
        sink.unwatch()
        sink.close()

    raise BrokenPipeError
