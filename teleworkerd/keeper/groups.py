"""The groups of a job in the keeper's hands: there when nothing else can be opened."""

import logging
from typing import Final

from teleworkerd.cgroups.base import CgroupError, JobCgroup
from teleworkerd.protocol.status import Usage
from teleworkerd.spare import Spare


log = logging.getLogger(__name__)


class SpareCgroup(JobCgroup):
    """The groups *cgroup* of *job*, and descriptors of *spare* to look at and end them.

    `signal`, `kill` and `usage` do what they can, and raise nothing; what they cannot
    is in the log, once for each.
    """

    def __init__(self, job: str, cgroup: JobCgroup, spare: Spare) -> None:
        self.job: Final = job
        self.applied = cgroup.applied
        self.not_applied = cgroup.not_applied
        self._cgroup = cgroup
        self._spare = spare
        self._told: set[str] = set()

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
            self._tell(f"signal {signum} does not reach the whole tree", error)

    def kill(self) -> None:
        try:
            with self._spare.lent():
                self._cgroup.kill()
        except (CgroupError, MemoryError) as error:
            self._tell("its tree cannot be killed now", error)

    def usage(self) -> Usage:
        try:
            with self._spare.lent():
                return self._cgroup.usage()
        except (CgroupError, MemoryError) as error:
            self._tell("what it has used is not known", error)
            return Usage()

    def remove(self) -> bool:
        with self._spare.lent():
            return self._cgroup.remove()

    def _tell(self, what: str, error: Exception) -> None:
        # A tree is killed, and its use is asked for, again and again.
        if what not in self._told:
            self._told.add(what)
            log.error("job %s: %s: %s", self.job, what, error)
