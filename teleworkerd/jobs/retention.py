"""Which jobs that have ended are kept no longer."""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Final

from teleworkerd.jobs.job import Job
from teleworkerd.jobs.manager import JobManager
from teleworkerd.protocol.errors import JobNotEnded, Unavailable
from teleworkerd.settings import RetentionConfig
from teleworkerd.store import StoreError


log = logging.getLogger(__name__)

SECOND: Final = 10**9  # nanoseconds


class Retention:
    """Removes jobs of the *manager* by the rules of *config*, until cancelled."""

    def __init__(self, manager: JobManager, config: RetentionConfig) -> None:
        self._manager = manager
        self._config = config

    def configure(self, config: RetentionConfig) -> None:
        """Use *config* from the next look on."""
        self._config = config

    async def run(self) -> None:
        """Look again and again; never returns."""
        while True:
            try:
                await self.sweep()
            except Exception:
                # The next look may go well; without any, the disk would fill up.
                log.exception("not all jobs that were to go could be removed")

            await asyncio.sleep(self._config.interval)

    async def sweep(self) -> None:
        """Remove what is to go now."""
        for jobs in self._manager.ended():
            for job in expired(jobs, self._config, now=time.time_ns()):
                try:
                    await self._manager.remove(job)
                except (Unavailable, StoreError, JobNotEnded) as error:
                    log.warning("%s", error)


def expired(jobs: Sequence[Job], config: RetentionConfig, *, now: int) -> Iterator[Job]:
    """Yield those of one owner's ended *jobs*, oldest first, that are to go.

    A job that is being read stays for now, and counts as kept.
    """
    count = len(jobs)
    size = sum(job.kept_bytes for job in jobs)
    oldest = now - int(config.age * SECOND)

    for job in sorted(jobs, key=_ended_at):
        is_old = config.age > 0 and _ended_at(job) < oldest
        are_many = 0 < config.count < count
        are_large = 0 < config.bytes < size

        if not (is_old or are_many or are_large):
            return

        if not job.readers:
            count -= 1
            size -= job.kept_bytes
            yield job


def _ended_at(job: Job) -> int:
    # Of a lost job nobody knows when it ended.
    return job.facts.ended_at or job.facts.created_at
