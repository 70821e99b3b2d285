"""The driver of a host that has no usable controllers: it only tracks trees."""

from collections.abc import Mapping
from typing import get_args

from teleworkerd.cgroups.base import CgroupDriver, JobCgroup, Limit
from teleworkerd.cgroups.limits import refuse_all
from teleworkerd.cgroups.tracking import TrackedJob, Tracker
from teleworkerd.protocol.spec import Limits


class UnlimitedDriver(CgroupDriver):
    """Refuses every limit with *reason*."""

    name = "none"

    def __init__(self, tracker: Tracker, *, reason: str) -> None:
        self.reason = reason
        self.tracking = tracker.name
        self._why = reason
        self._tracker = tracker

    @property
    def supports(self) -> Mapping[Limit, str | None]:
        return dict.fromkeys(get_args(Limit), self._why)

    def prepare(self) -> None:
        pass

    def create(
        self,
        job_id: str,
        limits: Limits,
        *,
        defaults: Limits = Limits(),
        strict: bool = False,
    ) -> JobCgroup:
        del defaults, strict
        refuse_all(limits, reason=self._why)
        tree = self._tracker.tree(job_id)
        tree.make()
        return TrackedJob(tree)

    def leftover(self, job_id: str) -> JobCgroup | None:
        tree = self._tracker.tree(job_id)
        return TrackedJob(tree) if tree.exists() else None

    def leftovers(self) -> set[str]:
        return self._tracker.jobs()

    def close(self) -> None:
        self._tracker.close()
