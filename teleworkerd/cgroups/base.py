"""What a driver must do to limit jobs and to keep track of their processes."""

import errno as errnos
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.spec import Limits
from teleworkerd.protocol.status import Usage


Limit = Literal["mem", "cpu", "io", "cpus", "pids"]
Controller = Literal["blkio", "cpu", "memory", "pids"]
Groups = Mapping[Controller, Path]


class CgroupError(TeleworkerError):
    """The kernel refused something that a group needs.

    *path* is the file or directory, *value* what was written to it, *errno* the
    kernel's response (0 when it took the value and stored another).
    """

    def __init__(
        self,
        message: str,
        *,
        path: Path | None = None,
        value: str | None = None,
        errno: int = 0,
    ) -> None:
        super().__init__(message)
        self.path = path
        self.value = value
        self.errno = errno

    @classmethod
    def of(
        cls, error: OSError, doing: str, path: Path, *, value: str | None = None
    ) -> "CgroupError":
        """Return the error for *doing*, an infinitive that ends before *path*."""
        number = error.errno or errnos.EIO
        name = errnos.errorcode.get(number, str(number))

        return cls(
            f"cannot {doing} {path}: {os.strerror(number)} ({name})",
            path=path,
            value=value,
            errno=number,
        )


class UnsupportedLimit(CgroupError):
    """This host cannot apply *limit*; *reason* says why."""

    def __init__(self, limit: Limit, reason: str) -> None:
        super().__init__(
            f"limit {limit} cannot be applied on this host: {reason};"
            f" start the job without {limit}",
        )
        self.limit = limit
        self.reason = reason


class JobCgroup(ABC):
    """The groups of one job, or what stands for them on a host without any.

    Every call is short and never waits. Processes may come and go meanwhile.
    """

    applied: Limits  # in force, in the units of the request; the defaults too
    not_applied: Mapping[Limit, str]  # why a limit that was asked for is not in force

    @abstractmethod
    def open_procs(self) -> list[int]:
        """Open every `cgroup.procs` that the job's first process must join.

        A process joins when it writes `b"0"` to each. The caller closes the
        descriptors. Raises `CgroupError`, and then leaves none open.
        """

    @abstractmethod
    def pids(self) -> set[int]:
        """Return the live processes of the job; a zombie is not alive.

        Raises `CgroupError` when we lack what it takes to look, as do `signal`,
        `kill` and `usage`.
        """

    @abstractmethod
    def signal(self, signum: int) -> None:
        """Send *signum* to every process; one that is just forked may miss it."""

    @abstractmethod
    def kill(self) -> None:
        """Send SIGKILL to every process, without a race where the kernel can.

        Call it again until `pids` is empty.
        """

    @abstractmethod
    def usage(self) -> Usage:
        """Return what the job used so far; None for what cannot be known."""

    @abstractmethod
    def remove(self) -> bool:
        """Remove the job's directories; one that is missing is gone.

        Returns True when all are gone, False while one is busy: call it again.
        Raises `CgroupError` for anything else.
        """


class CgroupDriver(ABC):
    """Makes the groups of jobs in one kind of hierarchy.

    Chosen once, by what the host has; nobody above knows which one it is.
    """

    name: ClassVar[str]
    reason: str | None  # why no limit can be used; None when limits can be
    tracking: str  # how trees are found: "unified", "freezer" or "proc"

    @property
    @abstractmethod
    def supports(self) -> Mapping[Limit, str | None]:
        """Why a limit has no effect now, None if it has; disks come and go."""

    @abstractmethod
    def prepare(self) -> None:
        """Make the group `teleworker` in each controller, if it is not there.

        Raises `CgroupError`.
        """

    @abstractmethod
    def create(
        self,
        job_id: str,
        limits: Limits,
        *,
        defaults: Limits = Limits(),
        strict: bool = False,
    ) -> JobCgroup:
        """Make what the job needs and apply *limits*, which were asked for.

        *defaults* are applied as well, as far as the host can. What was asked for and
        cannot be applied is in `not_applied` of the result; `UnsupportedLimit` is
        raised instead if *strict*, and where the host can apply no limit at all.
        Raises that or `CgroupError`, and then leaves nothing behind.
        """

    @abstractmethod
    def leftover(self, job_id: str) -> JobCgroup | None:
        """Return what an earlier daemon left of the job, None if nothing.

        Its `applied` is empty: nobody knows any more what was asked for.
        """

    @abstractmethod
    def leftovers(self) -> set[str]:
        """Return the jobs of which something is there, those of other daemons too.

        Raises `CgroupError` when we lack what it takes to look.
        """

    @abstractmethod
    def close(self) -> None:
        """Remove the groups `teleworker`, except where somebody still uses them."""
