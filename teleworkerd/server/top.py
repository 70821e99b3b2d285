"""The request `top`: what jobs use, sample after sample."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import replace

from teleworkerd.jobs.job import Job
from teleworkerd.jobs.manager import JobManager
from teleworkerd.jobs.sampling import Sample
from teleworkerd.protocol.messages import Message, TopRequest
from teleworkerd.protocol.responses import TopEnd, UsageSample
from teleworkerd.protocol.status import JobStatus
from teleworkerd.server.access import Access, Right
from teleworkerd.server.pages import Page
from teleworkerd.server.session import Session


class Watched:
    """The jobs of one request: those that it names, or all of an owner that run."""

    def __init__(self, manager: JobManager, *, named: list[Job], owner: str | None):
        self._manager = manager
        self._named = named
        self._owner = owner
        self._shown = {job.id: job for job in named}

    @property
    def is_over(self) -> bool:
        """Whether all the jobs that were named have ended."""
        return bool(self._named) and all(job.is_over for job in self._named)

    def running(self) -> list[str]:
        """Return the ids of those that run now."""
        return [job.id for job in self._running()]

    def statuses(self, sample: Sample) -> Iterator[JobStatus]:
        """Yield how they are, with *sample*, and once more those that have ended."""
        before = self._shown
        self._shown = {job.id: job for job in self._running()}

        for job in {**self._shown, **before}.values():
            usage = sample.usages.get(job.id)
            status = job.status
            yield (
                status if usage is None or job.is_over else replace(status, usage=usage)
            )

    def _running(self) -> Iterable[Job]:
        if self._named:
            return (job for job in self._named if not job.is_over)

        return self._manager.running(self._owner)


async def top(
    manager: JobManager, access: Access, session: Session, request: TopRequest
) -> Message:
    """Send samples until there are enough, or the client wants no more."""
    caller = session.caller
    named = [
        access.job(ref, caller, Right.SEE, what=request.type) for ref in request.jobs
    ]
    owner = None if named else access.owner_to_list(caller, request.owner)
    watched = Watched(manager, named=list(dict.fromkeys(named)), owner=owner)
    count = 0

    try:
        with manager.sampler.watch(watched.running, request.interval) as watch:
            while count != request.count:
                sample = await watch.next()
                await manager.sampler.turn()
                is_over = watched.is_over

                for message in _messages(request.id, sample, watched):
                    await session.send(message)
                    await manager.sampler.turn()

                count += 1

                if is_over:
                    break
    except asyncio.CancelledError:
        if session.is_lost:
            raise

    return TopEnd(request.id)


def _messages(
    request_id: int, sample: Sample, watched: Watched
) -> Iterator[UsageSample]:
    page = Page()

    for status in watched.statuses(sample):
        if not page.add(status):
            yield UsageSample(request_id, sample.at, tuple(page.jobs), more=True)
            page = Page()
            page.add(status)

    yield UsageSample(request_id, sample.at, tuple(page.jobs))
