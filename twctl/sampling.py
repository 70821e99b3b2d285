"""What running jobs use, sample by sample, and the rates between two samples."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.responses import TopEnd, UsageSample
from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import Nanoseconds


_SECOND: Final = 1e9  # nanoseconds


@dataclass(frozen=True, slots=True)
class JobUse:
    """What a job used by the time of a sample, and since the sample before.

    `cpu_percent` is of one processor, so that 200 are two of them; the others are bytes
    a second, output that of both streams. They are None for the first sample of a job,
    and where the server cannot tell.
    """

    status: JobStatus
    cpu_percent: float | None = None
    read_rate: float | None = None
    write_rate: float | None = None
    output_rate: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """The jobs that ran at the time `at` (ns since the epoch, the server's clock).

    Those that have ended since the sample before are there once more.
    """

    at: Nanoseconds
    jobs: tuple[JobUse, ...]


class Rates:
    """Turns what jobs used in all into what they use a second."""

    def __init__(self) -> None:
        self._at = 0
        self._before: Mapping[str, JobStatus] = {}

    def sample(self, at: int, jobs: tuple[JobStatus, ...]) -> Sample:
        """Return the sample of the time *at*, compared with the one before."""
        seconds = (at - self._at) / _SECOND
        uses = tuple(_use(job, self._before.get(job.id), seconds) for job in jobs)
        self._at, self._before = at, {job.id: job for job in jobs}
        return Sample(at, uses)


class Samples:
    """What comes for one top request on one session: the newest whole sample waits."""

    def __init__(self) -> None:
        self._pages: list[JobStatus] = []
        self._newest: tuple[int, tuple[JobStatus, ...]] | None = None
        self._error: TeleworkerError | None = None
        self._is_over = False
        self._came = asyncio.Event()

    def put(self, arrived: UsageSample | TopEnd | TeleworkerError) -> None:
        """Take what the session received; an error is the last."""
        match arrived:
            case UsageSample(_, at, jobs, more):
                self._pages += jobs

                if not more:
                    self._newest = (at, tuple(self._pages))
                    self._pages = []
            case TopEnd():
                self._is_over = True
            case TeleworkerError() as error:
                self._error = error

        self._came.set()

    async def next(self) -> tuple[int, tuple[JobStatus, ...]] | None:
        """Wait for a sample; None when there are no more.

        Raises the error that the session put last.
        """
        while self._newest is None:
            if self._error is not None:
                raise self._error

            if self._is_over:
                return None

            self._came.clear()
            await self._came.wait()

        newest, self._newest = self._newest, None
        return newest


def _use(now: JobStatus, before: JobStatus | None, seconds: float) -> JobUse:
    if before is None or seconds <= 0:
        return JobUse(now)

    def rate(new: float | None, old: float | None) -> float | None:
        # A count that went back is another one, of after a restart say.
        if new is None or old is None or new < old:
            return None

        return (new - old) / seconds

    cpu = rate(now.usage.cpu_seconds, before.usage.cpu_seconds)
    return JobUse(
        now,
        cpu_percent=None if cpu is None else 100 * cpu,
        read_rate=rate(now.usage.io_read_bytes, before.usage.io_read_bytes),
        write_rate=rate(now.usage.io_write_bytes, before.usage.io_write_bytes),
        output_rate=rate(_written(now), _written(before)),
    )


def _written(status: JobStatus) -> int:
    return status.stdout.end + status.stderr.end
