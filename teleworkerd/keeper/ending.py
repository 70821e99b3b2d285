"""The end of a job's tree: what is left is ended, then its groups are removed."""

import asyncio
import logging
from collections.abc import Iterator
from typing import Final

from teleworkerd.cgroups.base import CgroupError, JobCgroup


log = logging.getLogger(__name__)

KILL_TIMEOUT: Final = 10.0  # seconds; what outlives it hangs in the kernel
REMOVE_TIMEOUT: Final = 5.0  # seconds; the last task of a group is slow to leave


async def end_tree(cgroup: JobCgroup, *, linger: float) -> None:
    """Wait until nothing of the job lives; after *linger* seconds kill it.

    Gives up, with a log line, after `KILL_TIMEOUT`.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + linger

    for pause in _pauses():
        if not cgroup.pids():
            return

        if loop.time() >= deadline:
            break

        await asyncio.sleep(min(pause, deadline - loop.time()))

    deadline = loop.time() + KILL_TIMEOUT

    for pause in _pauses():
        cgroup.kill()
        left = cgroup.pids()

        if not left:
            return

        if loop.time() >= deadline:
            log.error("processes that cannot be killed: %s", sorted(left))
            return

        await asyncio.sleep(pause)


async def remove_groups(cgroup: JobCgroup) -> None:
    """Remove the job's groups, trying again while the kernel holds them busy."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + REMOVE_TIMEOUT

    try:
        for pause in _pauses():
            if cgroup.remove():
                return

            if loop.time() >= deadline:
                log.error("a cgroup stays busy; it is removed at the next start")
                return

            await asyncio.sleep(pause)
    except CgroupError as error:
        log.error("a cgroup stays behind: %s", error)


def _pauses() -> Iterator[float]:
    pause = 0.001

    while True:
        yield pause
        pause = min(2 * pause, 0.05)
