"""One job: its facts, its state and its output."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from teleworkerd.execution import ExitRecord, JobIdentity, Launched
from teleworkerd.executors.base import Execution
from teleworkerd.jobs.state import JobEvent, advance
from teleworkerd.output.fanout import Fanout, Subscription
from teleworkerd.protocol.types import (
    JobStatus,
    LaunchFailure,
    Reason,
    Stream,
    StreamStatus,
)
from teleworkerd.store import JobRecord


log = logging.getLogger(__name__)


class Job:
    """The mutable owner of one job's facts; also the sink of its execution.

    *changed* is called after each change that is worth storing.
    """

    def __init__(
        self,
        record: JobRecord,
        output: Mapping[Stream, Fanout],
        *,
        changed: Callable[["Job"], object],
    ) -> None:
        self._execution: Execution | None = None
        self._postponed: list[Callable[[Execution], None]] = []
        self._record = record
        self._output: Final = output
        self._changed = changed
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
    def is_over(self) -> bool:
        """Whether the job has ended, for good."""
        return self._record.status.state.is_final

    @property
    def record(self) -> JobRecord:
        """What the store keeps."""
        return replace(self._record, status=self.status)

    @property
    def status(self) -> JobStatus:
        """The job in full, as it is now."""
        return replace(
            self._record.status,
            stdout=StreamStatus(end=self._output[Stream.STDOUT].size),
            stderr=StreamStatus(end=self._output[Stream.STDERR].size),
        )

    def size(self, stream: Stream) -> int:
        """Return how many bytes *stream* has had so far."""
        return self._output[stream].size

    async def wait(self) -> JobStatus:
        """Wait until the job has ended and all its output is there."""
        await self._ended.wait()
        return self.status

    def subscribe(self, stream: Stream, *, offset: int, follow: bool) -> Subscription:
        """Return a new reader's place; raises `OffsetOutOfRange`."""
        return self._output[stream].subscribe(offset=offset, follow=follow)

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
        for stream, size in ((Stream.STDOUT, stdout), (Stream.STDERR, stderr)):
            try:
                self._output[stream].grow(size)
            except OSError as error:
                # Readers see it themselves, at their own place in the spool.
                log.error("job %s: %s cannot be read: %s", self.id, stream, error)

    def exited(self, record: ExitRecord) -> None:
        """Note how the job ended; its output is complete."""
        self.launched(record.launched)
        self.output_grown(record.stdout, record.stderr)
        status = replace(
            self._record.status,
            exit_code=record.exit_code,
            signal=record.signal,
            reason=record.reason,
            ended_at=record.ended_at,
            truncated=record.truncated,
            usage=record.usage,
        )
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
        status = replace(self._record.status, reason=Reason.LOST)
        self._apply(JobEvent.VANISHED, status)
        log.warning("job %s of %s is lost: %s", self.id, self.owner, message)

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

        for fanout in self._output.values():
            fanout.end()

        self._ended.set()
