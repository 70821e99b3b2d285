"""Jobs on their way from their record to their executor."""

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable
from functools import partial

from teleworkerd.counters import Counters
from teleworkerd.execution import Caller, LaunchError
from teleworkerd.executors.base import Executor, StartUnknown
from teleworkerd.failpoints import failpoint
from teleworkerd.jobs.job import Job
from teleworkerd.jobs.refusal import refusal
from teleworkerd.protocol.errors import Unavailable
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.status import LaunchFailure
from teleworkerd.protocol.types import JobState, LaunchStage
from teleworkerd.store import JobStore, StoreError


log = logging.getLogger(__name__)


class Launches:
    """Starts jobs, each in a task of its own; *counters* get how that goes."""

    def __init__(
        self,
        *,
        executor: Executor,
        store: JobStore,
        now: Callable[[], int],
        counters: Counters,
    ) -> None:
        self._executor = executor
        self._store = store
        self._now = now
        self._counters = counters
        self._tasks: dict[str, asyncio.Task[Job]] = {}

    def begin(self, job: Job, spec: JobSpec, *, by: Caller | None = None) -> None:
        """Begin to start *job*; it goes on whoever waits for it."""
        launch = self._counters.launch(partial(self._start, job, spec, by))
        task = asyncio.create_task(launch)
        self._tasks[job.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(job.id))
        # The caller may have gone; the record tells how it went.
        task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def started(self, job: Job) -> Job:
        """Return *job* once its command runs, or ran.

        Raises `LaunchFailed`, `LimitRejected`, `Unavailable`.
        """
        if (task := self._tasks.get(job.id)) is not None:
            return await asyncio.shield(task)

        if (failure := job.facts.error) is not None:
            raise refusal(job.id, LaunchError(failure))

        if job.facts.state is JobState.STARTING:
            raise _unknown(job, "its start went wrong")

        return job

    async def settle(self, job: Job) -> None:
        """Wait until *job* is not on its way any more, whatever has become of it."""
        if (task := self._tasks.get(job.id)) is not None:
            await asyncio.wait([task])

    async def settled(self) -> None:
        """Wait until nothing is on its way any more."""
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def _start(self, job: Job, spec: JobSpec, by: Caller | None) -> Job:
        try:
            # Before the launch: whatever happens then, the job is known.
            await self._store.save(job.record)
            failpoint("record-saved")
        except Exception as error:
            raise await self._not_ordered(job, error) from error

        try:
            started = await self._executor.start(job.identity, spec, job, by=by)
            job.attached(started)
        except LaunchError as error:
            await self._failed(job, error.failure, error.failed_at or self._now())
            raise refusal(job.id, error) from error
        except Unavailable as error:
            raise await self._not_ordered(job, error) from error
        except StartUnknown as error:
            if job.is_over:
                raise Unavailable(
                    f"job {job.id} is lost: {error}", {"job": job.id}
                ) from error

            # It is not for us to say what became of it: its directory will.
            raise _unknown(job, str(error)) from error
        except Exception as error:
            log.exception("job %s: its start went wrong", job.id)
            raise _unknown(job, "the server failed") from error

        return job

    async def _not_ordered(self, job: Job, error: Exception) -> Unavailable:
        """Note that the executor never heard of *job*; return what to tell."""
        failure = LaunchFailure(LaunchStage.SPOOL, errno.EIO, str(error))
        await self._failed(job, failure, self._now())
        return Unavailable(f"the job could not be started: {error}", {"job": job.id})

    async def _failed(self, job: Job, failure: LaunchFailure, at: int) -> None:
        job.launch_failed(failure, ended_at=at)

        # Before anybody is told: it shall not be started by the next server.
        with contextlib.suppress(StoreError):
            await self._store.save(job.record)


def _unknown(job: Job, why: str) -> Unavailable:
    return Unavailable(f"job {job.id} may run or not: {why}", {"retry_after": 1})
