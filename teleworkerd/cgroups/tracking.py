"""How a job's whole tree of processes is found and signalled."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from teleworkerd.cgroups import groupfs
from teleworkerd.cgroups.base import JobCgroup
from teleworkerd.cgroups.limits import NOTHING, Settled
from teleworkerd.protocol.status import Usage


def send(pids: Iterable[int], signum: int) -> None:
    """Send *signum* to each process; one that has ended meanwhile is no error.

    A process that we may not signal is left alone, and stays in sight.
    """
    # Parents before their children, as a rule: a shell whose child is the first to
    # go may exit by itself, and nobody could tell that it was stopped.
    for pid in sorted(pids):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signum)


class Tree(ABC):
    """Every process that one job started; the contract is that of `JobCgroup`."""

    @abstractmethod
    def make(self) -> None:
        """Make what the tree needs before its first process; raises `CgroupError`."""

    @abstractmethod
    def exists(self) -> bool:
        """Return whether anything of the tree is there."""

    @abstractmethod
    def open_procs(self) -> list[int]:
        """Open what the first process must join; see `JobCgroup.open_procs`."""

    @abstractmethod
    def pids(self) -> set[int]:
        """Return the live processes."""

    @abstractmethod
    def kill(self) -> None:
        """Send SIGKILL to all, without a race where the kernel can."""

    @abstractmethod
    def cpu_seconds(self) -> float | None:
        """Return the CPU time of all, ended ones too; None if nobody counts."""

    @abstractmethod
    def remove(self) -> bool:
        """Remove what was made for the tree; see `JobCgroup.remove`."""


class Tracker(ABC):
    """One way to keep track of trees."""

    name: ClassVar[str]

    @abstractmethod
    def tree(self, job_id: str) -> Tree:
        """Return the tree of a job, whether there is one or not.

        Raises `CgroupError` for an id that cannot be the name of a group.
        """

    @abstractmethod
    def jobs(self) -> set[str]:
        """Return the jobs of which there is a tree, those of other daemons too.

        Raises `CgroupError` when we lack what it takes to look.
        """

    @abstractmethod
    def close(self) -> None:
        """Remove the group `teleworker` unless somebody uses it."""


class GroupTree(Tree):
    """A tree that the kernel keeps together, in a group of its own."""

    def __init__(self, group: Path) -> None:
        self._group = group

    @property
    def group(self) -> Path:
        """The group that holds it."""
        return self._group

    def make(self) -> None:
        groupfs.restoring(
            lambda: groupfs.make(self._group),
            restore=lambda: groupfs.make(self._group.parent, exist_ok=True),
        )

    def exists(self) -> bool:
        return self._group.is_dir()

    def open_procs(self) -> list[int]:
        return groupfs.open_procs([self._group])

    def pids(self) -> set[int]:
        return groupfs.pids(self._group)

    def remove(self) -> bool:
        return groupfs.remove(self._group)


class GroupTracker(Tracker):
    """Gives each job the group `teleworker/<id>` in one hierarchy."""

    kind: ClassVar[type[GroupTree]]

    def __init__(self, mount: Path) -> None:
        self._mount = mount

    def tree(self, job_id: str) -> Tree:
        return self.kind(groupfs.job_group(self._mount, job_id))

    def jobs(self) -> set[str]:
        return groupfs.names_in(self._mount / groupfs.TOP)

    def close(self) -> None:
        groupfs.remove_if_unused(self._mount / groupfs.TOP)


class TrackedJob(JobCgroup):
    """A job of which only the tree is known."""

    def __init__(self, tree: Tree, settled: Settled = NOTHING) -> None:
        self.applied = settled.applied
        self.not_applied = settled.not_applied
        self._tree = tree

    def open_procs(self) -> list[int]:
        return self._tree.open_procs()

    def pids(self) -> set[int]:
        return self._tree.pids()

    def signal(self, signum: int) -> None:
        send(self.pids(), signum)

    def kill(self) -> None:
        self._tree.kill()

    def usage(self) -> Usage:
        pids = self._tree.pids()
        return Usage(cpu_seconds=self._tree.cpu_seconds(), processes=len(pids))

    def remove(self) -> bool:
        return self._tree.remove()
