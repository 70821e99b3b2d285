"""One job: its facts, its state and its output."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Final

from teleworkerd.execution import ExitRecord, JobIdentity, Launched
from teleworkerd.executors.base import Execution
from teleworkerd.jobs.state import JobEvent, advance
from teleworkerd.output.joboutput import JobOutput, Position
from teleworkerd.output.subscription import Reading
from teleworkerd.protocol.errors import RequestError
from teleworkerd.protocol.types import (
    JobStatus,
    LaunchFailure,
    Reason,
    Stream,
    StreamStatus,
)
from teleworkerd.store import JobRecord


log = logging.getLogger(__name__)

Digests = dict[Stream, bytes]
"""The SHA-256 of each stream, as far as it is known."""


class Job:
    """The mutable owner of one job's facts; also the sink of its execution.

    *changed* is called after each change that is worth storing, *sealed* with
    what is found out of a job's digests after it has exited.
    """

    def __init__(
        self,
        record: JobRecord,
        output: JobOutput,
        *,
        changed: Callable[["Job"], object],
        sealed: Callable[["Job", Digests], object],
    ) -> None:
        self._execution: Execution | None = None
        self._postponed: list[Callable[[Execution], None]] = []
        self._record = record
        self._output: Final = output
        self._changed = changed
        self._sealed = sealed
        self._finishing: asyncio.Task[None] | None = None
        self._held_up: str | None = None
        self._ended = asyncio.Event()

        if record.status.state.is_final:
            self._end_output()

    @property
    def id(self) -> str:
        """The job's UUID."""
        return self._record.status.id

    @property
    def owner(self) -> str:
        """The name that may see and stop the job."""
        return self._record.status.owner

    @property
    def name(self) -> str | None:
        """What the owner calls it."""
        return self._record.status.name

    @property
    def identity(self) -> JobIdentity:
        """What the executor is told."""
        status = self._record.status
        return JobIdentity(
            status.id, status.owner, self._record.request_id, status.created_at
        )

    @property
    def facts(self) -> JobStatus:
        """What `status` has, without how its output is at this moment.

        It is there already: for who looks at many jobs.
        """
        return self._record.status

    @property
    def is_over(self) -> bool:
        """Whether the job has ended, for good."""
        return self._record.status.state.is_final

    @property
    def has_exited(self) -> bool:
        """Whether nothing of the job runs any more, though it may not be over."""
        return self.is_over or self._finishing is not None

    @property
    def readers(self) -> int:
        """How many read its output now."""
        return self._output.readers

    @property
    def kept_bytes(self) -> int:
        """How many bytes of output are kept."""
        return self._output.kept_bytes

    @property
    def record(self) -> JobRecord:
        """What the store keeps."""
        return replace(self._record, status=self.status)

    @property
    def status(self) -> JobStatus:
        """The job in full, as it is now."""
        status = self._record.status
        return replace(
            status,
            stdout=self._output.status(Stream.STDOUT, status.stdout.sha256),
            stderr=self._output.status(Stream.STDERR, status.stderr.sha256),
            held_up=self._held_up,
        )

    def size(self, stream: Stream) -> int:
        """Return how many bytes *stream* has had so far."""
        return self._output.size(stream)

    async def wait(self) -> JobStatus:
        """Wait until the job has ended and all its output is there."""
        await self._ended.wait()
        return self.status

    def subscribe(
        self,
        position: Position,
        *,
        follow: bool = True,
        since: int | None = None,
        until: int | None = None,
        times: bool = False,
    ) -> AbstractContextManager[Reading]:
        """Give a reader its place, as `JobOutput.subscribe` does."""
        return self._output.subscribe(
            position, follow=follow, since=since, until=until, times=times
        )

    def restore_output(self) -> None:
        """Take over what an earlier server left of it."""
        status = self._record.status

        try:
            self._output.restore(status.stdout.end, status.stderr.end)
        except OSError as error:
            self._unreadable(error)

        if not self.is_over:
            self._output.hash()

    def removing(self, error: RequestError | None) -> None:
        """Have *error* told to readers who find the output gone; None: no more."""
        self._output.removing(error)

    def removed(self, error: RequestError) -> None:
        """Let go whoever still reads, with *error*."""
        self._output.end(error)

    def close(self) -> None:
        """Give up what goes on beside the loop; the job is of no use after."""
        if self._finishing is not None:
            self._finishing.cancel()

        self._output.close()

    def attached(self, execution: Execution | None) -> None:
        """Note by what the job is reached, and do what had to wait for that."""
        if self.is_over or execution is None:
            return

        self._execution = execution

        for action in self._postponed:
            action(execution)

        self._postponed.clear()

    def act(self, action: Callable[[Execution], None]) -> None:
        """Do *action* now, or as soon as the job runs; nothing once it is over."""
        if self._execution is not None:
            action(self._execution)
        elif not self.is_over:
            self._postponed.append(action)

    def stop_requested(self) -> None:
        """Note that a user, or the daemon's end, wants the job to be over."""
        if self.has_exited:
            return

        self._apply(JobEvent.STOP_REQUESTED, self._record.status)

    def launch_failed(self, failure: LaunchFailure, *, ended_at: int) -> None:
        """Note that the command never ran."""
        status = replace(
            self._record.status,
            error=failure,
            reason=Reason.LAUNCH,
            ended_at=ended_at,
        )
        self._apply(JobEvent.LAUNCH_FAILED, status)
        log.info(
            "job %s of %s failed to start: %s", self.id, self.owner, failure.message
        )

    def launched(self, launched: Launched) -> None:
        """Note that the command runs; again, after a restart, is no harm."""
        if self._record.status.started_at is not None:
            return

        status = replace(
            self._record.status,
            pid=launched.pid,
            started_at=launched.started_at,
            user=launched.user,
            applied=launched.applied,
        )
        self._apply(JobEvent.LAUNCHED, status)

    def output_grown(self, stdout: int, stderr: int) -> None:
        """Publish what the spools have now."""
        try:
            self._output.grow(stdout, stderr)
        except OSError as error:
            self._unreadable(error)

        self._output.hash()

    def output_dropped(self, stream: Stream, offset: int, stop: int) -> None:
        """Note that bytes *offset* up to *stop* are not kept."""
        self._output.drop(stream, offset, stop)

    def output_held_up(self, why: str | None) -> None:
        """Note why output is not taken now, or that it is."""
        self._held_up = why

    def exited(self, record: ExitRecord) -> None:
        """Note how the job ended; it is over once the digests are known."""
        if self.has_exited:
            return

        self.launched(record.launched)
        self.output_grown(record.stdout, record.stderr)

        if (digests := known_digests(record)) is not None:
            self._exited(record, digests)
        else:
            self._finishing = asyncio.create_task(self._finish(record))

    async def _finish(self, record: ExitRecord) -> None:
        digests: Digests = {}

        for stream in Stream:
            try:
                digests[stream] = await self._output.finish(stream)
            except OSError as error:
                log.error("job %s: %s cannot be hashed: %s", self.id, stream, error)

        self._sealed(self, digests)
        self._exited(record, digests)

    def _exited(self, record: ExitRecord, digests: Digests) -> None:
        status = replace(
            self._record.status,
            exit_code=record.exit_code,
            signal=record.signal,
            reason=record.reason,
            ended_at=record.ended_at,
            truncated=record.truncated,
            usage=record.usage,
            stdout=StreamStatus(sha256=digests.get(Stream.STDOUT)),
            stderr=StreamStatus(sha256=digests.get(Stream.STDERR)),
        )
        self._held_up = None
        self._apply(JobEvent.EXITED, status)
        log.info(
            "job %s of %s ended: %s, exit code %s",
            self.id,
            self.owner,
            record.reason,
            record.exit_code,
        )

    def vanished(self, message: str) -> None:
        """Note that nobody knows how the job ended."""
        if self.has_exited:
            return

        try:
            self._output.recover()
        except OSError as error:
            self._unreadable(error)

        status = replace(self._record.status, reason=Reason.LOST)
        self._apply(JobEvent.VANISHED, status)
        log.warning("job %s of %s is lost: %s", self.id, self.owner, message)

    def _unreadable(self, error: OSError) -> None:
        # Readers see it themselves, at their own place in the spool.
        log.error("job %s: its output cannot be read: %s", self.id, error)

    def _apply(self, event: JobEvent, status: JobStatus) -> None:
        """Take over *status*, in the state that follows *event*."""
        state = advance(self._record.status.state, event)
        self._record = replace(self._record, status=replace(status, state=state))

        if state.is_final:
            self._end_output()

        self._changed(self)

    def _end_output(self) -> None:
        self._execution = None
        self._postponed.clear()

        self._output.end()
        self._ended.set()


def known_digests(record: ExitRecord) -> Digests | None:
    """Return what *record* says of the digests, if it is all that there is."""
    if record.stdout_sha256 is None or record.stderr_sha256 is None:
        return None

    try:
        return {
            Stream.STDOUT: bytes.fromhex(record.stdout_sha256),
            Stream.STDERR: bytes.fromhex(record.stderr_sha256),
        }
    except ValueError:
        return None
