"""The end of a job's tree: what is left is ended, then its groups are removed."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from teleworkerd.cgroups.base import CgroupError, JobCgroup
from teleworkerd.keeper.groups import SpareCgroup
from teleworkerd.spare import LACKS


log = logging.getLogger(__name__)

KILL_TIMEOUT: Final = 10.0  # seconds; what outlives it hangs in the kernel
RETRY: Final = 1.0  # seconds between two tries to kill what hangs
REMOVE_TIMEOUT: Final = 5.0  # seconds; the last task of a group is slow to leave

_UNHURRIED: Final = 0.5  # seconds between two looks at a tree that may last for days
_SHOWN: Final = 5  # processes of those that hang


async def tree_ended(cgroup: SpareCgroup, *, unless: Callable[[], bool]) -> None:
    """Wait until nothing of the job lives, or until *unless* says to wait no more."""
    for pause in _pauses(most=_UNHURRIED):
        if unless() or not _may_live(cgroup):
            return

        await asyncio.sleep(pause)


async def end_tree(
    cgroup: SpareCgroup,
    *,
    linger: float,
    tell: Callable[[str | None], None] | None = None,
) -> None:
    """Wait until nothing of the job lives; after *linger* seconds kill it.

    What outlives that by `KILL_TIMEOUT` hangs in the kernel. Then *tell* is called with
    a sentence that says which processes do, and once more with None when they are gone.
    Without it, they are given up with a log line.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + linger

    for pause in _pauses():
        if not _may_live(cgroup):
            return

        if loop.time() >= deadline:
            break

        await asyncio.sleep(min(pause, deadline - loop.time()))

    deadline = loop.time() + KILL_TIMEOUT

    for pause in _pauses():
        cgroup.kill()

        if not _may_live(cgroup):
            break

        if loop.time() >= deadline:
            log.error("job %s: %s", cgroup.job, who_hangs(cgroup))
            break

        await asyncio.sleep(pause)

    while tell is not None and _may_live(cgroup):
        tell(who_hangs(cgroup))
        await asyncio.sleep(RETRY)
        cgroup.kill()

    if tell is not None:
        tell(None)


def who_hangs(cgroup: JobCgroup) -> str:
    """Return which processes of *cgroup* do not end though they were killed."""
    try:
        pids = sorted(cgroup.pids())
    except (CgroupError, MemoryError) as error:
        return f"nobody knows which processes are left: {error}"

    hanging = ", ".join(map(_describe, pids[:_SHOWN]))
    rest = f" and {len(pids) - _SHOWN} more" if len(pids) > _SHOWN else ""
    return f"the kernel does not end {hanging}{rest}"


def _describe(pid: int) -> str:
    """Return what process *pid* is, and what it waits for, as far as one can see."""
    proc = Path("/proc", str(pid))

    try:
        stat = (proc / "stat").read_text(errors="replace")
        name = stat.partition("(")[2].rpartition(")")[0]
        state = stat.rpartition(")")[2].split()[0]
        place = (proc / "wchan").read_text()
    except (OSError, IndexError):
        return f"process {pid}"

    where = f" in {place}" if place not in {"", "0"} else ""
    return f"process {pid} ({name}, state {state}{where})"


async def remove_groups(cgroup: SpareCgroup) -> None:
    """Remove the job's groups, trying again while the kernel holds them busy."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + REMOVE_TIMEOUT

    try:
        for pause in _pauses():
            if _is_removed(cgroup):
                return

            if loop.time() >= deadline:
                log.error(
                    "job %s: a cgroup stays busy; it is removed at the next start",
                    cgroup.job,
                )
                return

            await asyncio.sleep(pause)
    except CgroupError as error:
        log.error("job %s: a cgroup stays behind: %s", cgroup.job, error)


def _is_removed(cgroup: JobCgroup) -> bool:
    """Remove what can be removed of the groups; return whether all is gone."""
    try:
        return cgroup.remove()
    except CgroupError as error:
        if error.errno not in LACKS:
            raise
    except MemoryError:
        pass

    return False


def _may_live(cgroup: JobCgroup) -> bool:
    """Whether a process of the job is left, or we cannot see that none is."""
    try:
        return bool(cgroup.pids())
    except (CgroupError, MemoryError):
        return True


def _pauses(*, most: float = 0.05) -> Iterator[float]:
    pause = 0.001

    while True:
        yield pause
        pause = min(2 * pause, most)
