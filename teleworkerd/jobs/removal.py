"""Jobs on their way out, with their output and all that is known of them."""

import asyncio
import logging
from collections.abc import Callable

from teleworkerd.execution import Caller
from teleworkerd.executors.base import Executor
from teleworkerd.jobs.catalog import JobCatalog
from teleworkerd.jobs.job import Job
from teleworkerd.jobs.records import news_of
from teleworkerd.protocol.errors import JobNotEnded, JobRemoved, Unavailable
from teleworkerd.protocol.types import JobState
from teleworkerd.store import JobStore, StoreError


log = logging.getLogger(__name__)


class Removals:
    """Removes jobs, each in a task of its own, from all that has something of them."""

    def __init__(
        self,
        *,
        catalog: JobCatalog,
        executor: Executor,
        store: JobStore,
        now: Callable[[], int],
    ) -> None:
        self._catalog = catalog
        self._executor = executor
        self._store = store
        self._now = now
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def remove(self, job: Job, *, by: Caller | None = None) -> None:
        """Remove *job*; goes on when the caller is cancelled.

        Raises `JobNotEnded`, `Unavailable`.
        """
        if job.id not in self._catalog and job.id not in self._tasks:
            return

        if not job.is_over:
            raise _not_ended(job)

        if job.id not in self._tasks:
            self._catalog.hide(job)
            task = asyncio.create_task(self._remove(job, by))
            self._tasks[job.id] = task
            task.add_done_callback(lambda _: self._tasks.pop(job.id))
            # The caller may have gone.
            task.add_done_callback(lambda task: task.cancelled() or task.exception())

        await asyncio.shield(self._tasks[job.id])

    async def _remove(self, job: Job, by: Caller | None) -> None:
        removed = JobRemoved(f"job {job.id} was removed", {"job": job.id})
        job.removing(removed)

        try:
            if self._store.is_behind(job.id):
                # It may not know yet that the job was started, and without files
                # the next server would do so again.
                await self._store.save(job.record)

            # The files first: without them, the record is dropped at a start.
            await self._executor.remove(job.id, by=by)
        except (StoreError, Unavailable) as error:
            job.removing(None)
            self._catalog.show(job)
            raise Unavailable(f"job {job.id} is not removed: {error}") from error

        job.removed(removed)
        self._catalog.forget(job)
        log.info("job %s of %s was removed", job.id, job.owner)

        self._store.note(news_of(job.facts, self._now(), removed=True))

        try:
            await self._store.remove(job.id)
        except StoreError as error:
            raise Unavailable(
                f"job {job.id} was removed, its record could not be: {error}"
            ) from error


def _not_ended(job: Job) -> JobNotEnded:
    state = job.facts.state
    is_ending = job.has_exited or state is JobState.STOPPING
    verb = "wait" if is_ending else "stop"
    return JobNotEnded(
        f"job {job.id} has not ended, it is"
        f" {'about to' if is_ending else state}; 'twctl {verb} {job.id}' first",
        {"job": job.id},
    )
