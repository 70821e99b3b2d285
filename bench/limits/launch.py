"""How fast asyncio starts processes; `python -m bench.limits.launch COUNT IN_FLIGHT`.

Each joins control groups by a hook between fork and exec, as jobs do: that of
every controller of version 1, or the unified one. Prints JSON: the seconds, and
how many groups the hook joins (0 where none can be made).
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final


HIERARCHIES: Final = Path("/sys/fs/cgroup")
CONTROLLERS: Final = ("blkio", "cpu", "memory", "freezer")


@contextmanager
def groups() -> Iterator[list[int]]:
    """Make a group in each hierarchy; yield their open `cgroup.procs`."""
    places = [HIERARCHIES / name for name in CONTROLLERS]
    roots = [place for place in places if place.is_dir()] or [HIERARCHIES]

    with ExitStack() as exits:
        yield [fd for root in roots for fd in _make_group(root, exits)]


def joiner(procs: list[int]) -> Callable[[], None]:
    """Return the hook by which a new process enters its groups."""

    def join() -> None:
        for fd in procs:
            os.write(fd, b"0")  # "0" is whoever writes

    return join


async def launch(count: int, *, in_flight: int, procs: list[int]) -> float:
    """Start *count* processes and return the seconds until the last one ran."""
    places = asyncio.Semaphore(in_flight)
    hook = joiner(procs)

    async def start() -> asyncio.subprocess.Process:
        async with places:
            return await asyncio.create_subprocess_exec(
                "true",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=hook,
            )

    begin = time.perf_counter()
    processes = await asyncio.gather(*(start() for _ in range(count)))
    seconds = time.perf_counter() - begin

    for process in processes:
        await process.wait()

    return seconds


def main(count: int, in_flight: int) -> None:
    """Measure once."""
    if sys.version_info < (3, 12):  # which chooses it by itself
        policy = asyncio.get_event_loop_policy()
        policy.set_child_watcher(asyncio.PidfdChildWatcher())

    with groups() as procs:
        seconds = asyncio.run(launch(count, in_flight=in_flight, procs=procs))
        result = {"seconds": seconds, "groups": len(procs)}

    sys.stdout.write(f"{json.dumps(result)}\n")


def _make_group(root: Path, exits: ExitStack) -> list[int]:
    group = root / f"teleworker-bench-{os.getpid()}"

    with suppress(OSError):
        group.mkdir()
        exits.callback(group.rmdir)
        fd = os.open(group / "cgroup.procs", os.O_WRONLY)
        exits.callback(os.close, fd)
        return [fd]

    return []


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
