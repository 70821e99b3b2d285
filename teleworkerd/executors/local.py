"""Runs jobs on this machine, through the keeper."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from teleworkerd.execution import JobIdentity, Launched, LaunchError
from teleworkerd.executors.base import Execution, ExecutionSink
from teleworkerd.jobdir import JobDirectory
from teleworkerd.keeper.channel import Channel
from teleworkerd.keeper.messages import (
    JobExited,
    JobFailed,
    JobGone,
    JobLaunched,
    KeptJob,
    Launch,
    OutputDropped,
    OutputGrown,
    OutputHeldUp,
    RemoveJob,
    SealJob,
    SignalJob,
    StopJob,
)
from teleworkerd.output.gaps import read_gaps
from teleworkerd.protocol.errors import Unavailable
from teleworkerd.protocol.messages import Message
from teleworkerd.protocol.types import JobSpec, Reason, Stream


MAX_LAUNCHING: Final = 64  # the keeper launches one by one; the rest waits here


class LocalExecution:
    """A job that the keeper keeps."""

    def __init__(self, job_id: str, channel: Channel) -> None:
        self._job_id = job_id
        self._channel = channel

    def signal(self, number: int, *, tree: bool) -> None:
        """Have the keeper send a signal."""
        self._channel.send(SignalJob(self._job_id, number, tree))

    def stop(self, *, grace: float | None, reason: Reason) -> None:
        """Have the keeper end the job; it goes on without us."""
        self._channel.send(StopJob(self._job_id, reason, grace))


class LocalExecutor:
    """The keeper's jobs, at the server's end of the *channel*.

    *kept* are the jobs that ran before this server. Whoever owns the channel
    calls `received` with what comes in, and `disconnected` at its end.
    """

    def __init__(
        self, channel: Channel, jobs_dir: Path, kept: tuple[KeptJob, ...]
    ) -> None:
        self._channel = channel
        self._jobs_dir = jobs_dir
        self._kept = {job.job: job for job in kept}
        self._sinks: dict[str, ExecutionSink] = {}
        self._starting: dict[str, asyncio.Future[None]] = {}
        self._removing: dict[str, asyncio.Future[None]] = {}
        self._slots = asyncio.Semaphore(MAX_LAUNCHING)
        self._is_connected = True

    async def start(
        self, job: JobIdentity, spec: JobSpec, sink: ExecutionSink
    ) -> Execution:
        """Launch *spec*; raises `LaunchError`, or `Unavailable` without a keeper."""
        async with self._slots:
            if not self._is_connected:
                raise Unavailable("the keeper is gone", {"retry_after": 1})

            started = asyncio.get_running_loop().create_future()
            self._sinks[job.id] = sink
            self._starting[job.id] = started
            self._channel.send(Launch(job, spec))

            try:
                await started
            finally:
                self._starting.pop(job.id, None)

        return LocalExecution(job.id, self._channel)

    def attach(self, job_id: str, sink: ExecutionSink) -> Execution | None:
        """Go on with a job of an earlier server, if it still runs."""
        directory = JobDirectory(self._jobs_dir / job_id)
        kept = self._kept.pop(job_id, None)

        if kept is not None:
            self._sinks[job_id] = sink
            sink.launched(kept.launched)
            _tell_gaps(sink, directory, kept.stdout, kept.stderr)
            sink.output_grown(kept.stdout, kept.stderr)
            sink.output_held_up(kept.held_up)
            return LocalExecution(job_id, self._channel)

        record = directory.read_exit()

        if record is None:
            sink.vanished("it ran under an earlier keeper, and left no exit record")
        else:
            _tell_gaps(sink, directory, record.stdout, record.stderr)
            sink.exited(record)

        return None

    def received(self, message: Message) -> None:
        """Pass on what the keeper says of a job."""
        match message:
            case JobLaunched(job_id, launched):
                self._launched(job_id, launched)
            case JobFailed(job_id, failure, limit):
                self._sinks.pop(job_id, None)

                if started := self._waiting(job_id):
                    started.set_exception(LaunchError(failure, limit=limit))
            case OutputGrown(job_id) | OutputDropped(job_id) | OutputHeldUp(job_id):
                if sink := self._sinks.get(job_id):
                    _tell(sink, message)
                elif kept := self._kept.get(job_id):
                    self._kept[job_id] = _updated(kept, message)
            case JobExited(job_id, record):
                # Without a sink: an earlier server's job; `attach` reads the record.
                self._kept.pop(job_id, None)

                if sink := self._sinks.pop(job_id, None):
                    sink.exited(record)
            case JobGone(job_id, error):
                self._gone(job_id, error)
            case _:
                raise AssertionError(message)

    def seal(self, job_id: str, digests: Mapping[Stream, str]) -> None:
        """Have the keeper add the *digests* to the exit record."""
        self._channel.send(
            SealJob(job_id, digests.get(Stream.STDOUT), digests.get(Stream.STDERR))
        )

    async def remove(self, job_id: str) -> None:
        """Have the keeper remove the job's directory."""
        if not self._is_connected:
            raise Unavailable("the keeper is gone", {"retry_after": 1})

        gone = self._removing.get(job_id)

        if gone is None:
            gone = self._removing[job_id] = asyncio.get_running_loop().create_future()
            self._channel.send(RemoveJob(job_id))

        await asyncio.shield(gone)

    def disconnected(self) -> None:
        """Fail what waits for the keeper, which is gone."""
        self._is_connected = False

        for job_id in list(self._removing):
            self._gone(job_id, "the keeper went away")

        for job_id in self._starting:
            if started := self._waiting(job_id):
                started.set_exception(
                    Unavailable("the keeper went away", {"retry_after": 1})
                )

    def _launched(self, job_id: str, launched: Launched) -> None:
        if sink := self._sinks.get(job_id):
            sink.launched(launched)
        else:
            # Ordered by an earlier server that did not live to hear of it.
            self._kept[job_id] = KeptJob(job_id, launched, 0, 0)

        if started := self._waiting(job_id):
            started.set_result(None)

    def _gone(self, job_id: str, error: str | None) -> None:
        gone = self._removing.pop(job_id, None)

        if gone is None:
            return

        if error is None:
            gone.set_result(None)
        else:
            gone.set_exception(
                Unavailable(f"job {job_id} could not be removed: {error}")
            )
            gone.exception()  # who asked may be gone

    def _waiting(self, job_id: str) -> asyncio.Future[None] | None:
        started = self._starting.get(job_id)
        return None if started is None or started.done() else started


def _tell_gaps(
    sink: ExecutionSink, directory: JobDirectory, stdout: int, stderr: int
) -> None:
    # Those that an earlier server was told of; the next ones are told to us.
    for gap in read_gaps(directory.gaps, stdout=stdout, stderr=stderr):
        sink.output_dropped(gap.stream, gap.offset, gap.stop)


def _tell(
    sink: ExecutionSink, message: OutputGrown | OutputDropped | OutputHeldUp
) -> None:
    match message:
        case OutputGrown(stdout=stdout, stderr=stderr):
            sink.output_grown(stdout, stderr)
        case OutputDropped(stream=stream, offset=offset, stop=stop):
            sink.output_dropped(stream, offset, stop)
        case OutputHeldUp(why=why):
            sink.output_held_up(why)


def _updated(
    kept: KeptJob, message: OutputGrown | OutputDropped | OutputHeldUp
) -> KeptJob:
    match message:
        case OutputGrown(stdout=stdout, stderr=stderr):
            return replace(kept, stdout=stdout, stderr=stderr)
        case OutputDropped():  # stands in the job's directory, where it is looked for
            return kept
        case OutputHeldUp(why=why):
            return replace(kept, held_up=why)
