"""One job: its facts, its state and its output."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Final

from teleworkerd.counters import Counters
from teleworkerd.execution import ExitRecord, InputFacts, JobIdentity, Launched
from teleworkerd.executors.base import Execution
from teleworkerd.jobs.finishing import Findings, Finishing, Seal, known_digests
from teleworkerd.jobs.state import JobEvent, advance
from teleworkerd.jobs.stdin import Stdin
from teleworkerd.output.joboutput import JobOutput, Position
from teleworkerd.output.subscription import Reading
from teleworkerd.output.sync import DirectorySync, Syncer, SyncFailed
from teleworkerd.protocol.errors import RequestError
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.status import JobStatus, LaunchFailure, StreamStatus
from teleworkerd.protocol.types import JobState, Reason, Stream
from teleworkerd.spare import lack_of
from teleworkerd.store import JobRecord, StoreError


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Means:
    """What every job of a manager works with.

    `advanced` is called after each change of its state, `changed` after another that is
    worth storing; that says when it is stored. After a job has exited, `seal` keeps
    with it what was found out, and `syncer` sees to it that all is on the disk.
    `counters` get what jobs write, and how they end.
    """

    advanced: Callable[["Job"], None]
    changed: Callable[["Job"], "asyncio.Future[None]"]
    seal: Seal
    syncer: Syncer
    counters: Counters


class Job:
    """The mutable owner of one job's facts; also the sink of its execution."""

    def __init__(self, record: JobRecord, output: JobOutput, means: Means) -> None:
        self._execution: Execution | None = None
        self._postponed: list[Callable[[Execution], None]] = []
        self._record = record
        self._output: Final = output
        self._means = means
        self._sync = DirectorySync(output.path, means.syncer, failed=self._not_durable)
        self._ending = Finishing(output, self._sync, means.seal)
        self._finishing: asyncio.Task[None] | None = None
        self._held_up: str | None = None
        self._unkillable: str | None = None
        self._ended = asyncio.Event()
        self.stdin = Stdin(self.act)

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
    def spec(self) -> JobSpec | None:
        """What is to be started, while it is not."""
        return self._record.spec

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
    def is_held_up(self) -> bool:
        """Whether its output is not taken now."""
        return self._held_up is not None

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
            unkillable=self._unkillable,
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
            if lack_of(error) is not None:
                raise  # a server that knows half of it must not serve

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

        self._sync.cancel()

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
        """Note that the command never ran; told of one that did, it is lost."""
        if self._record.status.started_at is not None:
            # After a power failure a directory may know less than we do.
            self.vanished("its directory does not say any more that it was started")
            return

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
            not_applied=launched.not_applied,
        )
        self._apply(JobEvent.LAUNCHED, status)

    def output_grown(self, stdout: int, stderr: int) -> None:
        """Publish what the spools have now."""
        before = self._output.written_bytes

        try:
            self._output.grow(stdout, stderr)
        except OSError as error:
            self._unreadable(error)

        self._means.counters.output_bytes += self._output.written_bytes - before
        self._output.hash()
        self._sync.changed()

    def output_dropped(self, stream: Stream, offset: int, stop: int) -> None:
        """Note that bytes *offset* up to *stop* are not kept."""
        self._output.drop(stream, offset, stop)
        self._means.counters.dropped_bytes += stop - offset

    def output_held_up(self, why: str | None) -> None:
        """Note why output is not taken now, or that it is."""
        self._held_up = why

    def unkillable(self, why: str | None) -> None:
        """Note which processes cannot be ended, or that they are."""
        if why is not None and why != self._unkillable:
            log.warning("job %s of %s: %s", self.id, self.owner, why)

        self._unkillable = why

    def input_moved(self, facts: InputFacts) -> None:
        """Note how far its stdin is."""
        self.stdin.moved(facts)

    def exited(self, record: ExitRecord) -> None:
        """Note how the job ended; it is over once that is sealed and on the disk."""
        if self.has_exited:
            return

        self.launched(record.launched)
        self.stdin.end()

        if record.stopped:
            # While there was no server, or by one that did not live to note it.
            self.stop_requested()

        self.output_grown(record.stdout, record.stderr)
        stopped = self._record.status.state is JobState.STOPPING
        digests = known_digests(record)

        if (
            digests is None
            or stopped is not record.stopped
            or self._ending.waits_for_the_disk
        ):
            self._finishing = asyncio.create_task(self._finish(record, stopped=stopped))
        else:
            self._exited(record, Findings(digests, durable=None))

    async def _finish(self, record: ExitRecord, *, stopped: bool) -> None:
        # After a failure no later success counts, nor after a restart.
        failed = record.failed_sync or self._record.status.durable is False
        findings = await self._ending.run(record, stopped=stopped, failed_sync=failed)
        self._exited(record, findings)

    async def _not_durable(self, error: SyncFailed) -> None:
        log.error("job %s would not outlive a power failure: %s", self.id, error)

        if self.is_over:
            return

        status = replace(self._record.status, durable=False)
        self._record = replace(self._record, status=status)

        # Before anything else: a server that does not know it would ask the kernel
        # again, and hear that all is well.
        with contextlib.suppress(StoreError):
            await asyncio.shield(self._means.changed(self))

    def _exited(self, record: ExitRecord, findings: Findings) -> None:
        digests = findings.digests
        status = replace(
            self._record.status,
            durable=findings.durable,
            exit_code=record.exit_code,
            signal=record.signal,
            reason=record.reason,
            ended_at=record.ended_at,
            truncated=record.truncated,
            usage=record.usage,
            stdout=StreamStatus(sha256=digests.get(Stream.STDOUT)),
            stderr=StreamStatus(sha256=digests.get(Stream.STDERR)),
        )
        self._held_up = self._unkillable = None
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

        status = replace(self._record.status, reason=Reason.LOST, lost=message)
        self._apply(JobEvent.VANISHED, status)
        log.warning("job %s of %s is lost: %s", self.id, self.owner, message)

    def _unreadable(self, error: OSError) -> None:
        # Readers see it themselves, at their own place in the spool.
        log.error("job %s: its output cannot be read: %s", self.id, error)

    def _apply(self, event: JobEvent, status: JobStatus) -> None:
        """Take over *status*, in the state that follows *event*."""
        before = self._record.status.state
        state = advance(before, event)
        # What it was to be is of no use any more: it is, or never will be.
        self._record = replace(
            self._record, status=replace(status, state=state), spec=None
        )

        if state.is_final:
            self._end_output()
            self._means.counters.ends[status.reason or Reason.LOST] += 1

        if state is not before:
            self._means.advanced(self)
        else:
            _ = self._means.changed(self)

    def _end_output(self) -> None:
        self._execution = None
        self._postponed.clear()

        self._output.end()
        self.stdin.end()
        self._ended.set()
