"""The end of a job's tree: what is left is ended, then its groups are removed."""

import asyncio
import logging
from collections.abc import Iterator
from typing import Final

from teleworkerd.cgroups.base import CgroupError, JobCgroup
from teleworkerd.keeper.groups import SpareCgroup
from teleworkerd.spare import LACKS


log = logging.getLogger(__name__)

KILL_TIMEOUT: Final = 10.0  # seconds; what outlives it hangs in the kernel
REMOVE_TIMEOUT: Final = 5.0  # seconds; the last task of a group is slow to leave


async def end_tree(cgroup: SpareCgroup, *, linger: float) -> None:
    """Wait until nothing of the job lives; after *linger* seconds kill it.

    Gives up, with a log line, after `KILL_TIMEOUT`.
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

        if not (left := _may_live(cgroup)):
            return

        if loop.time() >= deadline:
            log.error("job %s: processes that cannot be killed: %s", cgroup.job, left)
            return

        await asyncio.sleep(pause)


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


def _may_live(cgroup: JobCgroup) -> str:
    """Return who may still live, for people; empty if it is nobody."""
    try:
        return " ".join(map(str, sorted(cgroup.pids())))
    except (CgroupError, MemoryError) as error:
        return f"nobody knows, {error}"


def _pauses() -> Iterator[float]:
    pause = 0.001

    while True:
        yield pause
        pause = min(2 * pause, 0.05)
