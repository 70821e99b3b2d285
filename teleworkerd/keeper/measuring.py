"""Measures what jobs use, a few at a time: nobody else may have to wait for it."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from teleworkerd.keeper.job import RunningJob
from teleworkerd.keeper.messages import JobsMeasured, JobUsage
from teleworkerd.keeper.orders import MeasureJobs
from teleworkerd.protocol.messages import Message


_SLICE: Final = 0.005  # seconds at a stretch
_WAITING: Final = 64  # orders; the server gives one after the other


class Measuring:
    """Carries out the orders to measure some of *jobs*, and has the results told."""

    def __init__(
        self, jobs: Mapping[str, RunningJob], tell: Callable[[Message], None]
    ) -> None:
        self._jobs = jobs
        self._tell = tell
        self._orders: deque[MeasureJobs] = deque(maxlen=_WAITING)
        self._task: asyncio.Task[None] | None = None

    def ask(self, order: MeasureJobs) -> None:
        """Carry out *order* soon, after those that came before."""
        self._orders.append(order)

        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    def close(self) -> None:
        """Measure no more."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while self._orders:
            order = self._orders.popleft()
            self._tell(JobsMeasured(order.number, await self._measure(order.jobs)))

    async def _measure(self, wanted: tuple[str, ...]) -> tuple[JobUsage, ...]:
        found = []
        until = time.monotonic() + _SLICE

        for job_id in wanted:
            job = self._jobs.get(job_id)

            if job is not None and (usage := job.measure()) is not None:
                found.append(JobUsage(job_id, usage))

            if time.monotonic() >= until:
                await asyncio.sleep(0)
                until = time.monotonic() + _SLICE

        return tuple(found)
