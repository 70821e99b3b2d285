"""The driver of a host that has no usable controllers: it only tracks trees."""

from typing import get_args

from teleworkerd.cgroups.base import CgroupDriver, JobCgroup, Limit
from teleworkerd.cgroups.limits import check
from teleworkerd.cgroups.tracking import TrackedJob, Tracker
from teleworkerd.protocol.types import Limits


class UnlimitedDriver(CgroupDriver):
    """Refuses every limit with *reason*."""

    name = "none"

    def __init__(self, tracker: Tracker, *, reason: str) -> None:
        self.reason = reason
        self.supports = dict.fromkeys(get_args(Limit), reason)
        self.tracking = tracker.name
        self._tracker = tracker

    def prepare(self) -> None:
        pass

    def create(self, job_id: str, limits: Limits) -> JobCgroup:
        check(limits, supports=self.supports)
        tree = self._tracker.tree(job_id)
        tree.make()
        return TrackedJob(tree, applied=limits)

    def leftover(self, job_id: str) -> JobCgroup | None:
        tree = self._tracker.tree(job_id)
        return TrackedJob(tree, applied=Limits()) if tree.exists() else None

    def leftovers(self) -> set[str]:
        return self._tracker.jobs()

    def close(self) -> None:
        self._tracker.close()
