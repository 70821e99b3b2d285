"""How much output is kept, and may be: of each job, of each owner, and in total."""

import asyncio
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from teleworkerd.execution import LaunchError
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.status import LaunchFailure
from teleworkerd.protocol.types import LaunchStage
from teleworkerd.settings import OutputConfig, show_size
from teleworkerd.spare import lack_of


_ENDLESS: Final = 1 << 63  # more than any offset
_FULL: Final = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota of the daemon's account is used up",
    errno.EFBIG: "no file of this disk may be larger",
}


class Bound(Enum):
    """What leaves no room."""

    JOB = auto()  # its own limit: no room ever comes
    SHARED = auto()  # its owner's limit or the total one: room comes by removals
    DISK = auto()
    FAULT = auto()  # not the room: a fault of the disk, which may pass
    LACK = auto()  # of memory or descriptors, which does pass


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why output is not kept, and what to do about it."""

    bound: Bound
    why: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.why}: {self.advice}" if self.advice else self.why

    @classmethod
    def of(cls, error: OSError | MemoryError) -> "Shortage":
        """Return what *error*, of a write to the disk, means."""
        lack = lack_of(error)

        if isinstance(error, MemoryError) or lack is not None:
            return cls(Bound.LACK, f"output cannot be kept now: {lack}")

        number = error.errno or errno.EIO

        if number in _FULL:
            return cls(Bound.DISK, _FULL[number])

        return cls(Bound.FAULT, f"output cannot be kept now: {os.strerror(number)}")


class Pool:
    """Bytes that are kept within one limit; 0 bytes are one, None is none."""

    def __init__(self, limit: int | None, *, bound: Bound, whose: str) -> None:
        self.kept = 0
        self.limit = limit
        self._bound = bound
        self._whose = whose

    @property
    def room(self) -> int:
        """How many bytes more may be kept; a limit that was lowered may be below."""
        return _ENDLESS if self.limit is None else max(self.limit - self.kept, 0)

    def shortage(self) -> Shortage:
        """Return the sentences for a pool without room."""
        limit = show_size(self.limit or 0)

        if self._bound is Bound.JOB:
            why = f"the job's output limit of {limit} is reached"
            return Shortage(self._bound, why, "it can only be killed")

        why = f"{self._whose} {limit} of output are used up"
        return Shortage(self._bound, why, "remove jobs with twctl rm")


class Share:
    """What is kept of one job, in its own pool, its owner's and that of all."""

    def __init__(self, quota: "Quota", pools: tuple[Pool, ...]) -> None:
        self._quota = quota
        self._pools = pools

    @property
    def kept(self) -> int:
        """How many bytes of the job are kept."""
        return self._pools[0].kept

    def room(self) -> int:
        """Return how many bytes more may be kept."""
        return min([pool.room for pool in self._pools])

    def take(self, count: int) -> None:
        """Note *count* bytes more, which there was room for; less if negative."""
        for pool in self._pools:
            pool.kept += count

    def shortage(self) -> Shortage:
        """Return why there is no room; a limit that will stay comes first."""
        return next(pool for pool in self._pools if not pool.room).shortage()

    def wait(self, resume: Callable[[], None]) -> None:
        """Have *resume* called once there is room, maybe more than once."""
        self._quota.waiting[resume] = self

    def stop_waiting(self, resume: Callable[[], None]) -> None:
        """Have *resume* called no more."""
        self._quota.waiting.pop(resume, None)


class Quota:
    """The shares of all jobs that have a directory, running or not."""

    def __init__(self, limits: OutputConfig) -> None:
        self.waiting: dict[Callable[[], None], Share] = {}
        self._limits = limits
        self._shares: dict[str, Share] = {}
        self._owners: dict[str, Pool] = {}
        self._total = Pool(
            limits.total_limit or None, bound=Bound.SHARED, whose="the server's"
        )
        self._is_waking = False

    def configure(self, limits: OutputConfig) -> None:
        """Use other *limits* for owners and in total; a job's own stays."""
        self._limits = limits
        self._total.limit = limits.total_limit or None

        for pool in self._owners.values():
            pool.limit = limits.owner_limit or None

        self._wake_soon()

    def add(self, job: str, owner: str | None, *, limit: int | None = None) -> Share:
        """Return the new share of *job*; without a known *owner* of the total only."""
        own = Pool(limit, bound=Bound.JOB, whose="the job's")
        owned = () if owner is None else (self._pool_of(owner),)
        share = self._shares[job] = Share(self, (own, *owned, self._total))
        return share

    def remove(self, job: str) -> None:
        """Give back what *job* had; unknown is no harm."""
        share = self._shares.pop(job, None)

        if share is not None:
            share.take(-share.kept)
            self._wake_soon()

    def _pool_of(self, owner: str) -> Pool:
        if owner not in self._owners:
            self._owners[owner] = Pool(
                self._limits.owner_limit or None,
                bound=Bound.SHARED,
                whose=f"{owner}'s",
            )

        return self._owners[owner]

    def _wake_soon(self) -> None:
        # Many removals come together: those who wait are looked at once.
        if self.waiting and not self._is_waking:
            self._is_waking = True
            asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        self._is_waking = False

        for resume, share in list(self.waiting.items()):
            if share.room():
                resume()


def limit_of(spec: JobSpec, limits: OutputConfig) -> int | None:
    """Return how many bytes are kept of a job at most; None if there is no limit.

    A spec's own limit of 0 means that nothing is kept; the server's means that it
    has none. Raises `LaunchError` for more than the server allows: what was asked for
    would not be what the job gets.
    """
    most = limits.job_limit or None

    if spec.output_limit is None:
        return most

    if most is not None and spec.output_limit > most:
        raise LaunchError(
            LaunchFailure(
                LaunchStage.SPOOL,
                errno.EDQUOT,
                f"limit output_limit = {show_size(spec.output_limit)} is more than the"
                f" {show_size(most)} that this server keeps of one job; ask for less,"
                " or have [output] job_limit raised",
            ),
            limit="output_limit",
        )

    return spec.output_limit
