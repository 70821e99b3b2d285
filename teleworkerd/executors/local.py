"""Runs jobs on this machine, through the keeper."""

import asyncio
import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from teleworkerd.execution import (
    Caller,
    JobIdentity,
    Launched,
    LaunchError,
    Postscript,
)
from teleworkerd.executors.base import Execution, ExecutionSink, StartUnknown
from teleworkerd.executors.slots import FairSlots
from teleworkerd.failpoints import failpoint
from teleworkerd.jobdir import JobDirectory
from teleworkerd.keeper.channel import Channel
from teleworkerd.keeper.messages import (
    MAX_KEPT,
    InputMoved,
    JobExited,
    JobFailed,
    JobGone,
    JobLaunched,
    JobLost,
    JobSealed,
    JobsMeasured,
    KeptJob,
    OutputDropped,
    OutputGrown,
    OutputHeldUp,
    TreeUnkillable,
)
from teleworkerd.keeper.orders import (
    Launch,
    MeasureJobs,
    RemoveJob,
    ResizeTerminal,
    SealJob,
    SignalJob,
    StopJob,
    TakeInput,
    WriteInput,
)
from teleworkerd.output.gaps import gaps_of, read_gaps
from teleworkerd.protocol.errors import TeleworkerError, Unavailable
from teleworkerd.protocol.messages import Message
from teleworkerd.protocol.spec import JobSpec, TerminalSize
from teleworkerd.protocol.status import Usage
from teleworkerd.protocol.types import Gap, Reason


MAX_LAUNCHING: Final = 64  # the keeper launches one by one; the rest waits here


News = OutputGrown | OutputDropped | OutputHeldUp | TreeUnkillable | InputMoved
"""What is told of a job that runs."""


class LocalExecution:
    """A job that the keeper keeps."""

    def __init__(self, job_id: str, channel: Channel) -> None:
        self._job_id = job_id
        self._channel = channel

    def signal(self, number: int, *, tree: bool, by: Caller | None = None) -> None:
        """Have the keeper send a signal."""
        self._channel.send(SignalJob(self._job_id, number, tree, by))

    def stop(
        self, *, grace: float | None, reason: Reason, by: Caller | None = None
    ) -> None:
        """Have the keeper end the job; it goes on without us."""
        self._channel.send(StopJob(self._job_id, reason, grace, by))

    def take_input(self, turn: int, sender: str, *, by: Caller | None = None) -> None:
        """Have the keeper begin another turn."""
        self._channel.send(TakeInput(self._job_id, turn, sender, by))

    def write_input(self, turn: int, data: bytes, *, eof: bool) -> None:
        """Have the keeper write to stdin."""
        self._channel.send(WriteInput(self._job_id, turn, data, eof))

    def resize(self, size: TerminalSize) -> None:
        """Have the keeper change the size."""
        self._channel.send(ResizeTerminal(self._job_id, size))


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
        self._asked: dict[
            tuple[type[JobGone | JobSealed], str], asyncio.Future[None]
        ] = {}
        self._measured: dict[int, asyncio.Future[dict[str, Usage]]] = {}
        self._numbers = itertools.count()
        self._slots = FairSlots(MAX_LAUNCHING)
        self._is_connected = True

    async def start(
        self,
        job: JobIdentity,
        spec: JobSpec,
        sink: ExecutionSink,
        *,
        by: Caller | None = None,
    ) -> Execution:
        """Launch *spec*; raises `Unavailable` when the keeper was gone before."""
        async with self._slots.slot(job.owner):
            if not self._is_connected:
                raise Unavailable("the keeper is gone", {"retry_after": 1})

            started = asyncio.get_running_loop().create_future()
            self._sinks[job.id] = sink
            self._starting[job.id] = started
            self._channel.send(Launch(job, spec, by))
            failpoint("launch-ordered")

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

            if kept.stopping:
                sink.stop_requested()

            _tell_gaps(
                sink,
                # Those that an earlier server was told of; the next are told to us.
                read_gaps(directory.gaps, stdout=kept.stdout, stderr=kept.stderr),
            )
            sink.output_grown(kept.stdout, kept.stderr)
            sink.output_held_up(kept.held_up)

            if kept.input is not None:
                sink.input_moved(kept.input)

            if kept.unkillable is not None:
                sink.unkillable(kept.unkillable)

            return LocalExecution(job_id, self._channel)

        _tell_end(sink, directory)
        return None

    def received(self, message: Message) -> None:
        """Pass on what the keeper says of a job."""
        match message:
            case JobLaunched(job_id, launched):
                self._launched(job_id, launched)
            case JobFailed(job_id, failure, failed_at, limit):
                self._sinks.pop(job_id, None)
                self._refused(
                    job_id, LaunchError(failure, limit=limit, failed_at=failed_at)
                )
            case (
                OutputGrown(job_id)
                | OutputDropped(job_id)
                | OutputHeldUp(job_id)
                | TreeUnkillable(job_id)
                | InputMoved(job_id)
            ):
                if sink := self._sinks.get(job_id):
                    _tell(sink, message)
                elif kept := self._kept.get(job_id):
                    self._kept[job_id] = _updated(kept, message)
            case JobExited() | JobLost():
                self._over(message)
            case JobsMeasured(number, jobs):
                answer = self._measured.get(number)

                if answer is not None and not answer.done():
                    answer.set_result({each.job: each.usage for each in jobs})
            case JobGone() | JobSealed():
                self._answered(type(message), message.job, message.error)
            case _:
                raise AssertionError(message)

    async def measure(self, job_ids: Collection[str]) -> Mapping[str, Usage]:
        """Have the keeper measure, some at a time."""
        wanted = tuple(job_ids)
        found: dict[str, Usage] = {}

        while wanted:
            some, wanted = wanted[:MAX_KEPT], wanted[MAX_KEPT:]
            found.update(await self._measure(some))

        return found

    async def drained(self) -> None:
        """Wait until the keeper has caught up."""
        await self._channel.drained()

    async def seal(self, job_id: str, postscript: Postscript) -> None:
        """Have the keeper add *postscript* to the exit record."""
        await self._ask(SealJob(job_id, postscript), JobSealed)

    async def remove(self, job_id: str, *, by: Caller | None = None) -> None:
        """Have the keeper remove the job's directory."""
        await self._ask(RemoveJob(job_id, by), JobGone)

    def disconnected(self) -> None:
        """Fail what waits for the keeper, which is gone."""
        self._is_connected = False

        for kind, job_id in list(self._asked):
            self._answered(kind, job_id, "the keeper went away")

        for answer in self._measured.values():
            if not answer.done():
                answer.set_exception(Unavailable("the keeper went away"))

        for job_id in self._starting:
            self._refused(job_id, StartUnknown("the keeper went away"))

    def _launched(self, job_id: str, launched: Launched) -> None:
        failpoint("launch-heard")

        if sink := self._sinks.get(job_id):
            sink.launched(launched)

        if started := self._waiting(job_id):
            started.set_result(None)

    async def _measure(self, job_ids: tuple[str, ...]) -> dict[str, Usage]:
        if not self._is_connected:
            raise Unavailable("the keeper is gone", {"retry_after": 1})

        number = next(self._numbers)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[dict[str, Usage]] = loop.create_future()
        self._measured[number] = answer
        self._channel.send(MeasureJobs(number, job_ids))

        try:
            return await answer
        finally:
            del self._measured[number]

    async def _ask(
        self, order: RemoveJob | SealJob, answer: type[JobGone | JobSealed]
    ) -> None:
        """Send *order*, if it is not on its way already, and wait for its *answer*."""
        if not self._is_connected:
            raise Unavailable("the keeper is gone", {"retry_after": 1})

        asked = self._asked.get((answer, order.job))

        if asked is None:
            asked = asyncio.get_running_loop().create_future()
            self._asked[answer, order.job] = asked
            self._channel.send(order)

        await asyncio.shield(asked)

    def _answered(
        self, kind: type[JobGone | JobSealed], job_id: str, error: str | None
    ) -> None:
        asked = self._asked.pop((kind, job_id), None)

        if asked is None:
            return

        if error is None:
            asked.set_result(None)
        else:
            asked.set_exception(Unavailable(f"job {job_id} stays as it is: {error}"))
            asked.exception()  # who asked may be gone

    def _over(self, message: JobExited | JobLost) -> None:
        # Without a sink: an earlier server's job; `attach` reads what became of it.
        self._kept.pop(message.job, None)
        sink = self._sinks.pop(message.job, None)

        if isinstance(message, JobLost):
            self._refused(message.job, StartUnknown(message.why))

            if sink is not None:
                sink.vanished(message.why)
        elif sink is not None:
            sink.exited(message.record)

    def _refused(self, job_id: str, error: TeleworkerError) -> None:
        if started := self._waiting(job_id):
            started.set_exception(error)

    def _waiting(self, job_id: str) -> asyncio.Future[None] | None:
        started = self._starting.get(job_id)
        return None if started is None or started.done() else started


def _tell_end(sink: ExecutionSink, directory: JobDirectory) -> None:
    """Tell what became of a job that the keeper does not have any more."""
    if (record := directory.read_exit()) is not None:
        _tell_gaps(sink, gaps_of(directory, stdout=record.stdout, stderr=record.stderr))
        sink.exited(record)
        return

    if (failed := directory.read_failure()) is not None:
        sink.launch_failed(failed.failure, ended_at=failed.failed_at)
        return

    if (launched := directory.read_launched()) is not None:
        sink.launched(launched)

    if (loss := directory.read_loss()) is not None:
        sink.vanished(loss.why)
    elif directory.path.exists():
        sink.vanished("its directory does not say what became of it")
    else:
        sink.vanished("its directory is gone")


def _tell_gaps(sink: ExecutionSink, gaps: Iterator[Gap]) -> None:
    for gap in gaps:
        sink.output_dropped(gap.stream, gap.offset, gap.stop)


def _tell(sink: ExecutionSink, message: News) -> None:
    match message:
        case OutputGrown(stdout=stdout, stderr=stderr):
            sink.output_grown(stdout, stderr)
        case OutputDropped(stream=stream, offset=offset, stop=stop):
            sink.output_dropped(stream, offset, stop)
        case OutputHeldUp(why=why):
            sink.output_held_up(why)
        case TreeUnkillable(why=why):
            sink.unkillable(why)
        case InputMoved(input=facts):
            sink.input_moved(facts)


def _updated(kept: KeptJob, message: News) -> KeptJob:
    match message:
        case OutputGrown(stdout=stdout, stderr=stderr):
            return replace(kept, stdout=stdout, stderr=stderr)
        case OutputDropped():  # stands in the job's directory, where it is looked for
            return kept
        case OutputHeldUp(why=why):
            return replace(kept, held_up=why)
        case TreeUnkillable(why=why):
            return replace(kept, unkillable=why)
        case InputMoved(input=facts):
            return replace(kept, input=facts)
