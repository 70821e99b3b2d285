"""The groups of a job in the keeper's hands: there when nothing else can be opened."""

import logging
from typing import Final

from teleworkerd.cgroups.base import CgroupError, JobCgroup
from teleworkerd.protocol.types import Usage
from teleworkerd.spare import Spare


log = logging.getLogger(__name__)


class SpareCgroup(JobCgroup):
    """The groups *cgroup* of *job*, and descriptors of *spare* to look at and end them.

    `signal`, `kill` and `usage` do what they can, and raise nothing.
    """

    def __init__(self, job: str, cgroup: JobCgroup, spare: Spare) -> None:
        self.job: Final = job
        self.applied = cgroup.applied
        self._cgroup = cgroup
        self._spare = spare

    def open_procs(self) -> list[int]:
        # For a launch, which does not go without.
        return self._cgroup.open_procs()

    def pids(self) -> set[int]:
        with self._spare.lent():
            return self._cgroup.pids()

    def signal(self, signum: int) -> None:
        try:
            with self._spare.lent():
                self._cgroup.signal(signum)
        except (CgroupError, MemoryError) as error:
            log.error(
                "job %s: signal %d does not reach the whole tree: %s",
                *(self.job, signum, error),
            )

    def kill(self) -> None:
        try:
            with self._spare.lent():
                self._cgroup.kill()
        except (CgroupError, MemoryError) as error:
            log.error("job %s: its tree cannot be killed now: %s", self.job, error)

    def usage(self) -> Usage:
        try:
            with self._spare.lent():
                return self._cgroup.usage()
        except (CgroupError, MemoryError) as error:
            log.error("job %s: what it has used is not known: %s", self.job, error)
            return Usage()

    def remove(self) -> bool:
        with self._spare.lent():
            return self._cgroup.remove()
