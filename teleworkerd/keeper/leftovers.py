"""What earlier keepers left in the directory of jobs, as far as quotas count it."""

import asyncio
import logging
import os
from pathlib import Path
from typing import Final, cast

from teleworkerd.jobdir import JobDirectory, is_job_name
from teleworkerd.keeper.quota import Quota
from teleworkerd.output.gaps import read_gaps
from teleworkerd.protocol.codec import unpack
from teleworkerd.protocol.errors import RemoteProtocolError
from teleworkerd.protocol.types import Stream


log = logging.getLogger(__name__)

_BATCH: Final = 64  # directories, before others have their turn


async def count_leftovers(jobs_dir: Path, quota: Quota) -> None:
    """Have *quota* count each job that has a directory in *jobs_dir*."""
    names = filter(is_job_name, os.listdir(jobs_dir))  # noqa: PTH208  names it is

    for number, name in enumerate(names, start=1):
        directory = JobDirectory(jobs_dir / name)
        quota.add(name, owner_of(directory)).take(kept_of(directory))

        if number % _BATCH == 0:
            await asyncio.sleep(0)


def kept_of(directory: JobDirectory) -> int:
    """Return how many bytes of output are kept: without holes, and of both streams."""
    sizes = {stream: _size(directory.spool(stream)) for stream in Stream}
    dropped = sum(
        max(min(gap.stop, sizes[gap.stream]) - gap.offset, 0)
        for gap in read_gaps(directory.gaps)
    )
    return max(sum(sizes.values()) - dropped, 0)


def owner_of(directory: JobDirectory) -> str | None:
    """Return whose job it was; None when its spec cannot be read."""
    try:
        # As a `Launch` it would be checked in full, which takes longer.
        job = cast("dict[str, object]", unpack(directory.spec.read_bytes())["job"])
        owner = job["owner"]
    except (OSError, RemoteProtocolError, KeyError, TypeError):
        log.warning("nobody knows whose job %s was", directory.path.name)
        return None

    return owner if isinstance(owner, str) else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
