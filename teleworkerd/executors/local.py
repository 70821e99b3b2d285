"""Runs jobs on this machine, through the keeper."""

import asyncio
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
    JobLaunched,
    KeptJob,
    Launch,
    OutputGrown,
    SignalJob,
    StopJob,
)
from teleworkerd.protocol.errors import Unavailable
from teleworkerd.protocol.messages import Message
from teleworkerd.protocol.types import JobSpec, Reason


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
        kept = self._kept.pop(job_id, None)

        if kept is not None:
            self._sinks[job_id] = sink
            sink.launched(kept.launched)
            sink.output_grown(kept.stdout, kept.stderr)
            return LocalExecution(job_id, self._channel)

        record = JobDirectory(self._jobs_dir / job_id).read_exit()

        if record is None:
            sink.vanished("it ran under an earlier keeper, and left no exit record")
        else:
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
            case OutputGrown(job_id, stdout, stderr):
                if sink := self._sinks.get(job_id):
                    sink.output_grown(stdout, stderr)
                elif kept := self._kept.get(job_id):
                    grown = replace(kept, stdout=stdout, stderr=stderr)
                    self._kept[job_id] = grown
            case JobExited(job_id, record):
                # Without a sink: an earlier server's job; `attach` reads the record.
                self._kept.pop(job_id, None)

                if sink := self._sinks.pop(job_id, None):
                    sink.exited(record)
            case _:
                raise AssertionError(message)

    def disconnected(self) -> None:
        """Fail what waits for the keeper, which is gone."""
        self._is_connected = False

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

    def _waiting(self, job_id: str) -> asyncio.Future[None] | None:
        started = self._starting.get(job_id)
        return None if started is None or started.done() else started
