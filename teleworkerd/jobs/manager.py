"""All jobs of this daemon: started, found, listed, stopped; each by its owner."""

import asyncio
import contextlib
import logging
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from teleworkerd.ceilings import timeout_of
from teleworkerd.config import Config
from teleworkerd.counters import Counters
from teleworkerd.execution import Caller, JobIdentity, Postscript
from teleworkerd.executors.base import Executor
from teleworkerd.jobdir import JobDirectory, is_plain_name
from teleworkerd.jobs.bounds import OwnerBounds
from teleworkerd.jobs.catalog import JobCatalog, command_size
from teleworkerd.jobs.floor import Floor
from teleworkerd.jobs.job import Job, Means
from teleworkerd.jobs.launching import Launches
from teleworkerd.jobs.records import (
    found_again,
    new_record,
    news_of,
    show_command,
    spec_digest,
)
from teleworkerd.jobs.removal import Removals
from teleworkerd.jobs.sampling import Sampler
from teleworkerd.jobs.succession import (
    ORDINARY,
    Circumstances,
    Succession,
    see_the_end_of,
)
from teleworkerd.output.digest import Hasher
from teleworkerd.output.joboutput import JobOutput
from teleworkerd.output.sync import Syncer
from teleworkerd.protocol.errors import (
    NameTaken,
    RequestConflict,
    Unavailable,
)
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import JobState, Reason
from teleworkerd.spare import Spare
from teleworkerd.store import EventLog, JobRecord, JobStore


log = logging.getLogger(__name__)

_LEAVE_TIME: Final = 5.0  # seconds


class JobManager:
    """Owns every job; to each owner the jobs of others do not exist.

    Call `load` once, before anything else.
    """

    def __init__(  # noqa: PLR0913 - all that it works with
        self,
        *,
        executor: Executor,
        store: JobStore,
        config: Config,
        counters: Counters,
        now: Callable[[], int] = time.time_ns,
        new_id: Callable[[], uuid.UUID] = uuid.uuid4,
        spare: Spare | None = None,
    ) -> None:
        self._executor = executor
        self._store = store
        self._config = config
        self._now = now
        self._new_id = new_id
        self._jobs = JobCatalog()
        self._bounds = OwnerBounds(config.clients, config.limits)
        self._floor = Floor()
        self.sampler: Final = Sampler(executor, now=now)
        self._removals = Removals(
            catalog=self._jobs, executor=executor, store=store, now=now
        )
        self._is_closing = False
        self._hasher = Hasher(spare=spare)
        self._syncer = Syncer(config.output.sync_interval, spare)
        self._counters = counters
        self._launches = Launches(
            executor=executor, store=store, now=now, counters=self._counters
        )
        self._succession = Succession(
            config.jobs_dir, executor=executor, launches=self._launches, now=now
        )
        self._means = Means(
            advanced=self._advanced,
            changed=self._changed,
            seal=self._seal,
            syncer=self._syncer,
            counters=self._counters,
        )

    @property
    def config(self) -> Config:
        """What is used for what begins now."""
        return self._config

    @property
    def events(self) -> EventLog:
        """What has become of jobs."""
        return self._store.events

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    async def load(self, circumstances: Circumstances = ORDINARY) -> None:
        """Take over the jobs of earlier servers; raises `StoreError`."""
        # A path would lead out of our directory.
        records = [
            record
            for record in await self._store.load()
            if is_plain_name(record.status.id)
        ]

        for record in records:
            if self._succession.was_removed(record):
                self._store.note(news_of(record.status, self._now(), removed=True))
                _ = self._store.remove_soon(record.status.id)
            else:
                self._take_over(record, circumstances)

        known = {record.status.id for record in records}
        found = list(found_again(self._config.jobs_dir, known))
        ends = self._counters.ends.copy()

        if found:
            log.warning("%d jobs were not in the database: found again", len(found))
            jobs = [self._take_over(record, circumstances) for record in found]
            # They were told of as ended before.
            await see_the_end_of(jobs)

        # An earlier server has counted these.
        self._counters.ends = ends
        self._counters.output_bytes = self._counters.dropped_bytes = 0

    async def run(
        self, spec: JobSpec, *, owner: str, request_id: str, by: Caller | None = None
    ) -> tuple[Job, bool]:
        """Start a job, or find the one that the same request started before.

        *by* is for the audit log, here as elsewhere. Returns the job, once its command
        runs, and whether it is new. Goes on when the caller is cancelled. Raises
        `LaunchFailed`, `LimitRejected`, `NameTaken`, `NoSpace`, `RequestConflict`,
        `TooMany`, `Unavailable`.
        """
        digest = spec_digest(spec)
        known = job = self._jobs.made_by(owner, request_id)

        if known is not None and known.record.spec_digest != digest:
            raise RequestConflict(
                f"request id {request_id!r} was used for another command;"
                " make a new one for each job",
                {"job": known.id},
            )

        if job is None:
            self._check_new(spec, owner)
            job = self._create(spec, owner=owner, request_id=request_id)
            self._advanced(job)
            self._launches.begin(job, spec, by=by)

        return await self._launches.started(job), known is None

    def get(self, ref: str, *, owner: str, everybody: bool = False) -> Job:
        """Return the job that the owner calls *ref*, as `JobCatalog.get` does."""
        return self._jobs.get(ref, owner=owner, everybody=everybody)

    def has_owner(self, owner: str) -> bool:
        """Whether there is a job of *owner*."""
        return self._jobs.count(owner) > 0

    def find(self, ref: str) -> Job | None:
        """Return any job with the id or the prefix *ref*, whoever it belongs to."""
        return self._jobs.find(ref)

    def list(
        self,
        *,
        owner: str | None,
        states: tuple[JobState, ...] = (),
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        before: str | None = None,
    ) -> Iterator[JobStatus]:
        """Yield the owner's jobs that fit, newest first, from after *before*.

        Without an *owner* everybody's.

        Raises `JobNotFound` when *before* has been removed meanwhile.
        """
        fitting = self._jobs.fitting(
            owner, states=states, name=name, labels=labels or {}, before=before
        )
        return (job.status for job in fitting)

    def running(self, owner: str | None) -> Iterator[Job]:
        """Yield the jobs of *owner*, or everybody's, that have not ended."""
        for job_id in sorted(self._bounds.running(owner)):
            if (job := self._jobs.find_id(job_id)) is not None:
                yield job

    def signal(
        self, job: Job, number: int, *, tree: bool, by: Caller | None = None
    ) -> None:
        """Send a signal to a job that has not ended."""
        if number == signal.SIGKILL:
            job.stop_requested()

        job.act(lambda execution: execution.signal(number, tree=tree, by=by))

    def stop(
        self,
        job: Job,
        *,
        grace: float | None,
        reason: Reason = Reason.KILLED,
        by: Caller | None = None,
    ) -> None:
        """Begin to end a job that has not ended: SIGTERM, *grace*, SIGKILL."""
        job.stop_requested()
        job.act(lambda execution: execution.stop(grace=grace, reason=reason, by=by))

    async def remove(self, job: Job, *, by: Caller | None = None) -> None:
        """Remove a job that has ended, with its output and all that is known.

        Who reads it is told. Goes on when the caller is cancelled. Raises
        `JobNotEnded`, `Unavailable`.
        """
        await self._removals.remove(job, by=by)

    def ended(self) -> Iterator[tuple[Job, ...]]:
        """Yield each owner's jobs that have ended, oldest first."""
        for jobs in self._jobs.by_owner():
            yield tuple(job for job in jobs if job.is_over)

    def close(self) -> None:
        """Give back what the manager holds; its jobs are of no use after."""
        for job in self._jobs:
            job.close()

        self._hasher.close()
        self._syncer.close()

    def configure(self, config: Config) -> None:
        """Use *config* from now on."""
        self._config = config
        self._bounds.configure(config.clients, config.limits)
        self._syncer.interval = config.output.sync_interval

    def counts(self) -> dict[str, int]:
        """Return how many jobs are in each state."""
        return self._jobs.counts()

    async def shut_down(self) -> None:
        """Take no more jobs, end those that run, and write what is known."""
        self._is_closing = True

        await self._launches.settled()

        running = [job for job in self._jobs if not job.is_over]

        for job in running:
            self.stop(
                job, grace=self._config.jobs.shutdown_grace, reason=Reason.SHUTDOWN
            )

        for job in running:
            await job.wait()

    async def leave(self) -> None:
        """Take no more jobs, and let those begin that are on their way."""
        self._is_closing = True

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_TIME):
                await self._launches.settled()

    async def launched(self, job: Job) -> None:
        """Wait until *job* is not on its way any more: what is asked of it is done."""
        await self._launches.settle(job)
        await self._executor.drained()

    async def settle(self) -> None:
        """Note how the jobs ended whose executor is gone for good."""
        await self._launches.settled()

        for job in self._jobs:
            self._succession.find_out(job, ORDINARY)

    def _take_over(self, record: JobRecord, circumstances: Circumstances) -> Job:
        job = self._add(record)
        job.restore_output()
        self._succession.find_out(job, circumstances)
        return job

    def _check_new(self, spec: JobSpec, owner: str) -> None:
        if self._is_closing:
            raise Unavailable("the server is shutting down", {"retry_after": 5})

        if (job_id := self._bounds.named(owner, spec.name)) is not None:
            raise NameTaken(
                f"job {job_id} already has the name {spec.name!r} and has not"
                " ended; choose another name or stop that job",
                {"job": job_id},
            )

        self._bounds.check(
            owner,
            kept=self._jobs.count(owner),
            commands=self._jobs.command_bytes(owner) + command_size(spec),
        )
        self._bounds.check_limits(owner, spec)
        self._floor.check(self._config)
        self._bounds.start(owner)

    def _create(self, spec: JobSpec, *, owner: str, request_id: str) -> Job:
        job_id = str(self._new_id())

        while job_id in self._jobs:
            job_id = str(self._new_id())

        log.info("job %s of %s: run %s", job_id, owner, show_command(spec.command))
        return self._add(
            new_record(
                JobIdentity(job_id, owner, request_id, self._now()),
                spec,
                timeout=timeout_of(None, self._config.limits),
            )
        )

    def _add(self, record: JobRecord) -> Job:
        output = JobOutput(
            self._directory(record.status.id), self._config.output, self._hasher
        )
        job = Job(record, output, self._means)
        self._jobs.add(job)
        self._bounds.note(job)
        return job

    def _advanced(self, job: Job) -> None:
        self._store.note(news_of(job.facts, self._now()))
        _ = self._changed(job)

    def _changed(self, job: Job) -> asyncio.Future[None]:
        self._bounds.note(job)
        return self._store.save_soon(job.record)

    async def _seal(self, job_id: str, postscript: Postscript) -> None:
        try:
            await self._executor.seal(job_id, postscript)
        except Unavailable as error:
            log.error("job %s: what was found out is not kept: %s", job_id, error)

    def _directory(self, job_id: str) -> JobDirectory:
        return JobDirectory(self._config.jobs_dir / job_id)
