"""What is done with the directories of jobs that have ended: sealed, removed."""

import logging
from collections.abc import Container

from teleworkerd.config import Config
from teleworkerd.jobdir import JobDirectory, is_job_name
from teleworkerd.keeper.exits import seal
from teleworkerd.keeper.orders import SealJob
from teleworkerd.keeper.removal import Trash
from teleworkerd.keeper.start import Means


log = logging.getLogger(__name__)


class EndedJobs:
    """The directories of all jobs but those that are *kept*, which still run."""

    def __init__(self, config: Config, means: Means, *, kept: Container[str]) -> None:
        self._jobs_dir = config.jobs_dir
        self._trash = Trash(config.state_dir)
        self._means = means
        self._kept = kept

    def open(self) -> None:
        """Begin to remove what an earlier keeper did not come to."""
        self._trash.open()

    def seal(self, order: SealJob) -> str | None:
        """Add to the exit record of a job; return why it cannot be."""
        if not is_job_name(order.job):
            return f"{order.job!r:.80} is no job's ID"

        with self._means.spare.lent():
            directory = JobDirectory(self._jobs_dir / order.job)
            return seal(directory, order, self._means.reserve)

    def remove(self, job_id: str) -> str | None:
        """Remove the directory of a job; return why it cannot be."""
        if not is_job_name(job_id):
            return f"{job_id!r:.80} is no job's ID"

        if job_id in self._kept:
            return f"job {job_id} has not ended"

        try:
            self._trash.take(self._jobs_dir / job_id)
        except OSError as error:
            log.error("job %s cannot be removed: %s", job_id, error)
            return f"job {job_id} cannot be removed: {error.strerror}"

        self._means.quota.remove(job_id)
        return None

    async def close(self) -> None:
        """Stop to remove, whatever is left."""
        await self._trash.close()
