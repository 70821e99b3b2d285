"""What becomes of the jobs that an earlier server has left."""

import asyncio
import errno
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from teleworkerd.executors.base import Executor
from teleworkerd.jobdir import JobDirectory
from teleworkerd.jobs.job import Job
from teleworkerd.jobs.launching import Launches
from teleworkerd.protocol.status import LaunchFailure
from teleworkerd.protocol.types import LaunchStage
from teleworkerd.store import JobRecord


log = logging.getLogger(__name__)

_RESUME_WITHIN: Final = 300 * 10**9  # ns; for so long clients ask again
_SEE_TIME: Final = 30.0  # seconds
_NEVER_STARTED: Final = LaunchFailure(
    LaunchStage.FORK, errno.EAGAIN, "the server ended before the job was started"
)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """In what way we come after another server.

    `resume` says that one with our keeper has looked at all that came before: what was
    to be started since, and has no trace, never ran, and is started. `was_rebooted`
    says that the machine was, before our keeper.
    """

    resume: bool = False
    was_rebooted: bool = False


ORDINARY: Final = Circumstances()


class Succession:
    """Finds out what there is of each job in *jobs_dir*."""

    def __init__(
        self,
        jobs_dir: Path,
        *,
        executor: Executor,
        launches: Launches,
        now: Callable[[], int],
    ) -> None:
        self._jobs_dir = jobs_dir
        self._executor = executor
        self._launches = launches
        self._now = now

    def find_out(self, job: Job, circumstances: Circumstances) -> None:
        """Go on with *job*, or note what has become of it."""
        if job.is_over:
            return

        # The directory is the first thing that the keeper makes.
        if job.facts.started_at is not None or self._has_directory(job.id):
            job.attached(self._executor.attach(job.id, job))
        elif job.spec is not None and circumstances.resume and self._is_fresh(job):
            log.info("job %s of %s is started now", job.id, job.owner)
            self._launches.begin(job, job.spec)
        elif circumstances.was_rebooted and not circumstances.resume:
            job.vanished("the machine was restarted, and nothing is left of it")
        else:
            job.launch_failed(_NEVER_STARTED, ended_at=self._now())

    def was_removed(self, record: JobRecord) -> bool:
        """Whether *record* is of a job that was removed, all but this record."""
        # A job that never ran has no directory; one that did has lost it by `remove`.
        status = record.status
        return (
            status.state.is_final
            and status.started_at is not None
            and not self._has_directory(status.id)
        )

    def _has_directory(self, job_id: str) -> bool:
        return JobDirectory(self._jobs_dir / job_id).path.exists()

    def _is_fresh(self, job: Job) -> bool:
        # Whoever asked for it may still ask; later it would come as a surprise.
        return abs(self._now() - job.facts.created_at) < _RESUME_WITHIN


async def see_the_end_of(jobs: Sequence[Job]) -> None:
    """Wait a little for those of *jobs* that have ended, until they are over."""
    waiting = [
        asyncio.create_task(job.wait())
        for job in jobs
        if job.has_exited and not job.is_over
    ]

    if waiting:
        _, late = await asyncio.wait(waiting, timeout=_SEE_TIME)

        for task in late:
            task.cancel()
