"""All jobs of this daemon: started, found, listed, stopped; each by its owner."""

import asyncio
import errno
import hashlib
import logging
import os
import shlex
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from teleworkerd.config import Config
from teleworkerd.execution import LaunchError
from teleworkerd.executors.base import Executor
from teleworkerd.jobdir import JobDirectory
from teleworkerd.jobs.catalog import JobCatalog
from teleworkerd.jobs.job import Digests, Job
from teleworkerd.output.digest import Hasher
from teleworkerd.output.joboutput import JobOutput
from teleworkerd.protocol.codec import dump_record
from teleworkerd.protocol.errors import (
    JobNotEnded,
    JobRemoved,
    LaunchFailed,
    LimitRejected,
    NameTaken,
    RequestConflict,
    Unavailable,
)
from teleworkerd.protocol.types import (
    JobSpec,
    JobState,
    JobStatus,
    LaunchFailure,
    LaunchStage,
    Reason,
)
from teleworkerd.store import JobRecord, JobStore, StoreError


log = logging.getLogger(__name__)

_NEVER_STARTED: Final = LaunchFailure(
    LaunchStage.FORK, errno.EAGAIN, "the server ended before the job was started"
)
_LOGGED: Final = 200  # characters of a command


class JobManager:
    """Owns every job; to each owner the jobs of others do not exist.

    Call `load` once, before anything else.
    """

    def __init__(
        self,
        *,
        executor: Executor,
        store: JobStore,
        config: Config,
        now: Callable[[], int] = time.time_ns,
        new_id: Callable[[], uuid.UUID] = uuid.uuid4,
    ) -> None:
        self._executor = executor
        self._store = store
        self._config = config
        self._now = now
        self._new_id = new_id
        self._jobs = JobCatalog()
        self._runs: dict[tuple[str, str], asyncio.Task[Job]] = {}
        self._removals: dict[str, asyncio.Task[None]] = {}
        self._is_closing = False
        self._hasher = Hasher()

    async def load(self) -> None:
        """Take over the jobs of earlier servers; raises `StoreError`."""
        for record in await self._store.load():
            if self._was_removed(record):
                _ = self._store.remove_soon(record.status.id)
                continue

            job = self._add(record)
            job.restore_output()

            if not job.is_over and self._was_never_ordered(job):
                job.launch_failed(_NEVER_STARTED, ended_at=self._now())
            elif not job.is_over:
                job.attached(self._executor.attach(job.id, job))

    async def run(
        self, spec: JobSpec, *, owner: str, request_id: str
    ) -> tuple[Job, bool]:
        """Start a job, or find the one that the same request started before.

        Returns the job, once its command runs, and whether it is new. Goes on
        when the caller is cancelled. Raises `LaunchFailed`, `LimitRejected`,
        `NameTaken`, `RequestConflict`, `Unavailable`.
        """
        key = (owner, request_id)
        digest = hashlib.sha256(dump_record(spec)).digest()
        known = job = self._jobs.made_by(owner, request_id)

        if known is not None and known.record.spec_digest != digest:
            raise RequestConflict(
                f"request id {request_id!r} was used for another command;"
                " make a new one for each job",
                {"job": known.id},
            )

        if job is None:
            self._check_new(spec, owner)
            job = self._create(spec, owner=owner, request_id=request_id, digest=digest)
            task = asyncio.create_task(self._start(job, spec))
            self._runs[key] = task
            task.add_done_callback(lambda _: self._runs.pop(key))
            # The caller may have gone; the record tells how it went.
            task.add_done_callback(lambda task: task.cancelled() or task.exception())

        if (started := self._runs.get(key)) is not None:
            return await asyncio.shield(started), known is None

        if (failure := job.status.error) is not None:
            raise self._refusal(job, LaunchError(failure))

        return job, False

    def get(self, ref: str, *, owner: str) -> Job:
        """Return the owner's job with the id, the name or the prefix *ref*.

        Of several jobs with one name it is the newest. Raises `JobNotFound`,
        `AmbiguousJob`.
        """
        return self._jobs.get(ref, owner=owner)

    def list(
        self,
        *,
        owner: str,
        states: tuple[JobState, ...] = (),
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        before: str | None = None,
    ) -> Iterator[JobStatus]:
        """Yield the owner's jobs that fit, newest first, from after *before*.

        Raises `JobNotFound` when *before* has been removed meanwhile.
        """
        for job in self._jobs.newest_first(owner, before=before):
            facts = job.facts

            if states and facts.state not in states:
                continue

            if name is not None and facts.name != name:
                continue

            if (labels or {}).items() <= facts.labels.items():
                yield job.status

    def signal(self, job: Job, number: int, *, tree: bool) -> None:
        """Send a signal to a job that has not ended."""
        if number == signal.SIGKILL:
            job.stop_requested()

        job.act(lambda execution: execution.signal(number, tree=tree))

    def stop(
        self, job: Job, *, grace: float | None, reason: Reason = Reason.KILLED
    ) -> None:
        """Begin to end a job that has not ended: SIGTERM, *grace*, SIGKILL."""
        job.stop_requested()
        job.act(lambda execution: execution.stop(grace=grace, reason=reason))

    async def remove(self, job: Job) -> None:
        """Remove a job that has ended, with its output and all that is known.

        Who reads it is told. Goes on when the caller is cancelled. Raises
        `JobNotEnded`, `Unavailable`.
        """
        if job.id not in self._jobs and job.id not in self._removals:
            return

        if not job.is_over:
            state = job.facts.state
            is_ending = job.has_exited or state is JobState.STOPPING
            verb = "wait" if is_ending else "stop"
            raise JobNotEnded(
                f"job {job.id} has not ended, it is"
                f" {'about to' if is_ending else state}; 'twctl {verb} {job.id}' first",
                {"job": job.id},
            )

        if job.id not in self._removals:
            self._jobs.hide(job)
            task = asyncio.create_task(self._remove(job))
            self._removals[job.id] = task
            task.add_done_callback(lambda _: self._removals.pop(job.id))
            # The caller may have gone.
            task.add_done_callback(lambda task: task.cancelled() or task.exception())

        await asyncio.shield(self._removals[job.id])

    def ended(self) -> Iterator[tuple[Job, ...]]:
        """Yield each owner's jobs that have ended, oldest first."""
        for jobs in self._jobs.by_owner():
            yield tuple(job for job in jobs if job.is_over)

    def close(self) -> None:
        """Give back what the manager holds; its jobs are of no use after."""
        for job in self._jobs:
            job.close()

        self._hasher.close()

    def configure(self, config: Config) -> None:
        """Use *config* from now on."""
        self._config = config

    def counts(self) -> dict[str, int]:
        """Return how many jobs are in each state."""
        counts = dict.fromkeys(map(str, JobState), 0)

        for job in self._jobs:
            counts[job.facts.state] += 1

        return counts

    async def shut_down(self) -> None:
        """Take no more jobs, end those that run, and write what is known."""
        self._is_closing = True

        if self._runs:
            await asyncio.wait(list(self._runs.values()))

        running = [job for job in self._jobs if not job.is_over]

        for job in running:
            self.stop(
                job, grace=self._config.jobs.shutdown_grace, reason=Reason.SHUTDOWN
            )

        for job in running:
            await job.wait()

    async def settle(self) -> None:
        """Note how the jobs ended whose executor is gone for good."""
        if self._runs:
            await asyncio.wait(list(self._runs.values()))

        for job in self._jobs:
            if not job.is_over:
                self._executor.attach(job.id, job)

    async def _start(self, job: Job, spec: JobSpec) -> Job:
        try:
            # Before the launch: whatever happens then, the job is known.
            await self._store.save(job.record)
            job.attached(await self._executor.start(job.identity, spec, job))
        except LaunchError as error:
            job.launch_failed(error.failure, ended_at=self._now())
            raise self._refusal(job, error) from error
        except (StoreError, Unavailable) as error:
            failure = LaunchFailure(LaunchStage.SPOOL, errno.EIO, str(error))
            job.launch_failed(failure, ended_at=self._now())
            raise Unavailable(
                f"the job could not be started: {error}", {"job": job.id}
            ) from error

        return job

    async def _remove(self, job: Job) -> None:
        removed = JobRemoved(f"job {job.id} was removed", {"job": job.id})
        job.removing(removed)

        try:
            # The files first: without them, the record is dropped at a start.
            await self._executor.remove(job.id)
        except Unavailable:
            job.removing(None)
            self._jobs.show(job)
            raise

        job.removed(removed)
        self._jobs.forget(job)
        log.info("job %s of %s was removed", job.id, job.owner)

        try:
            await self._store.remove(job.id)
        except StoreError as error:
            raise Unavailable(
                f"job {job.id} was removed, its record could not be: {error}"
            ) from error

    def _check_new(self, spec: JobSpec, owner: str) -> None:
        if self._is_closing:
            raise Unavailable("the server is shutting down", {"retry_after": 5})

        for job in self._jobs.newest_first(owner) if spec.name else ():
            if job.name == spec.name and not job.is_over:
                raise NameTaken(
                    f"job {job.id} already has the name {spec.name!r} and has not"
                    " ended; choose another name or stop that job",
                    {"job": job.id},
                )

    def _create(
        self, spec: JobSpec, *, owner: str, request_id: str, digest: bytes
    ) -> Job:
        job_id = str(self._new_id())

        while job_id in self._jobs:
            job_id = str(self._new_id())

        status = JobStatus(
            id=job_id,
            owner=owner,
            command=spec.command,
            state=JobState.STARTING,
            created_at=self._now(),
            limits=spec.limits,
            name=spec.name,
            labels=spec.labels,
            workdir=spec.workdir,
            timeout=spec.timeout,
            merge=spec.merge,
            output_limit=spec.output_limit,
            on_full=spec.on_full,
        )
        log.info("job %s of %s: run %s", job_id, owner, _shown(spec.command))
        return self._add(JobRecord(request_id, digest, status))

    def _add(self, record: JobRecord) -> Job:
        output = JobOutput(
            self._directory(record.status.id), self._config.output, self._hasher
        )
        job = Job(
            record,
            output,
            changed=lambda job: self._store.save_soon(job.record),
            sealed=self._seal,
        )
        self._jobs.add(job)
        return job

    def _seal(self, job: Job, digests: Digests) -> None:
        self._executor.seal(
            job.id, {stream: digest.hex() for stream, digest in digests.items()}
        )

    def _directory(self, job_id: str) -> JobDirectory:
        return JobDirectory(self._config.jobs_dir / job_id)

    def _was_never_ordered(self, job: Job) -> bool:
        # The directory is the first thing that the keeper makes.
        return (
            job.status.started_at is None and not self._directory(job.id).path.exists()
        )

    def _was_removed(self, record: JobRecord) -> bool:
        # A job that never ran has no directory; one that did has lost it by `remove`.
        status = record.status
        return (
            status.state.is_final
            and status.started_at is not None
            and not self._directory(status.id).path.exists()
        )

    @staticmethod
    def _refusal(job: Job, error: LaunchError) -> LaunchFailed | LimitRejected:
        failure: LaunchFailure = error.failure

        if error.limit is not None:
            return LimitRejected(failure.message, {"job": job.id, "limit": error.limit})

        if failure.stage is LaunchStage.CGROUP:
            return LimitRejected(failure.message, {"job": job.id})

        return LaunchFailed(
            failure.message,
            {"job": job.id, "stage": failure.stage, "errno": failure.errno},
        )


def _shown(command: tuple[bytes, ...]) -> str:
    shown = shlex.join(os.fsdecode(part[:_LOGGED]) for part in command[:_LOGGED])
    return shown if len(shown) <= _LOGGED else f"{shown[:_LOGGED]}…"
