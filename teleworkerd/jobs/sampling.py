"""What jobs that run use: measured for all who ask and watch together."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Final

from teleworkerd.executors.base import Executor
from teleworkerd.jobs.job import Job
from teleworkerd.protocol.errors import Unavailable
from teleworkerd.protocol.status import JobStatus, Usage
from teleworkerd.protocol.types import Nanoseconds


_TOGETHER: Final = 0.25  # of its interval that a watcher may be served early
_SOON: Final = 2.0  # seconds; a status does not wait longer
_PATIENCE: Final = 10.0  # seconds for a measurement; the keeper takes milliseconds


@dataclass(frozen=True, slots=True)
class Sample:
    """What the jobs that run used at a time, by their ids."""

    at: Nanoseconds
    usages: Mapping[str, Usage]


@dataclass(eq=False, slots=True)
class Watch:
    """One who watches the jobs that *wanted* returns, each *interval* seconds.

    There is room for the newest sample only: who is slow misses some.
    """

    wanted: Callable[[], Collection[str]]
    interval: float
    due: float
    _newest: Sample | None = None
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    async def next(self) -> Sample:
        """Wait for a sample that was not returned before."""
        while self._newest is None:
            self._came.clear()
            await self._came.wait()

        sample, self._newest = self._newest, None
        return sample

    def give(self, sample: Sample) -> None:
        """Have `next` return *sample*."""
        self._newest = sample
        self._came.set()


class Sampler:
    """Measures by *executor*: once for all who want it, and only while somebody does.

    *now* is the time of day in nanoseconds.
    """

    def __init__(
        self, executor: Executor, *, now: Callable[[], int] = time.time_ns
    ) -> None:
        self._executor = executor
        self._now = now
        self._watches: set[Watch] = set()
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._gathering: set[str] = set()
        self._gathered: asyncio.Task[Mapping[str, Usage]] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._turns = asyncio.Lock()

    async def usage(self, job_id: str) -> Usage | None:
        """Return what one job uses now; None if it does not run, or nobody can say."""
        self._gathering.add(job_id)

        if self._gathered is None:
            self._gathered = asyncio.create_task(self._measure_gathered())

        return (await asyncio.shield(self._gathered)).get(job_id)

    async def status_of(self, job: Job) -> JobStatus:
        """Return how *job* is, and what it uses now if that can be said soon."""
        if job.is_over:
            return job.status

        usage = None

        with suppress(TimeoutError):
            async with asyncio.timeout(_SOON):
                usage = await self.usage(job.id)

        status = job.status
        return status if usage is None or job.is_over else replace(status, usage=usage)

    @contextmanager
    def watch(
        self, wanted: Callable[[], Collection[str]], interval: float
    ) -> Iterator[Watch]:
        """Lend a `Watch`; its first sample comes at once."""
        watch = Watch(wanted, interval, asyncio.get_running_loop().time())
        self._watches.add(watch)
        self._changed.set()

        if self._task is None:
            self._task = asyncio.create_task(self._run())

        try:
            yield watch
        finally:
            self._watches.discard(watch)

            if not self._watches and self._task is not None:
                self._task.cancel()
                self._task = None

    async def turn(self) -> None:
        """Wait for one's turn to do what takes long; all else goes on before the next.

        However many watch: only one of them goes on each time.
        """
        async with self._turns:
            await asyncio.sleep(0)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()

        while True:
            self._changed.clear()
            pause = min(watch.due for watch in self._watches) - loop.time()

            if pause <= 0:
                await self._serve(loop.time())
                continue

            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _serve(self, now: float) -> None:
        """Give those whose time it is, or nearly, what they want."""
        served = [
            watch
            for watch in self._watches
            if watch.due - now <= _TOGETHER * watch.interval
        ]

        for watch in served:
            # What could not be kept up with is left out.
            watch.due = max(watch.due + watch.interval, now + watch.interval / 2)

        wanted: set[str] = set()

        for watch in served:
            wanted.update(watch.wanted())
            await asyncio.sleep(0)

        usages = await self._measure(wanted)
        sample = Sample(self._now(), usages)

        for watch in served:
            watch.give(sample)

    async def _measure_gathered(self) -> Mapping[str, Usage]:
        # Who comes while others are measured is measured with all who come then.
        async with self._one_at_a_time:
            wanted, self._gathering = self._gathering, set()
            self._gathered = None
            return await self._measure(wanted)

    async def _measure(self, wanted: Collection[str]) -> Mapping[str, Usage]:
        if not wanted:
            return {}

        try:
            async with asyncio.timeout(_PATIENCE):
                return await self._executor.measure(wanted)
        except (TimeoutError, Unavailable):
            return {}
