"""What earlier keepers left in the directory of jobs: what became of it, how much."""

import asyncio
import errno
import logging
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, cast

from teleworkerd.config import Config
from teleworkerd.execution import FailureRecord, LossRecord
from teleworkerd.jobdir import JobDirectory, is_job_name, write_by_rename
from teleworkerd.keeper.audit import AuditLog
from teleworkerd.keeper.ending import end_tree, remove_groups
from teleworkerd.keeper.groups import SpareCgroup
from teleworkerd.keeper.quota import Quota
from teleworkerd.keeper.start import Means
from teleworkerd.output.gaps import read_gaps
from teleworkerd.protocol.codec import unpack
from teleworkerd.protocol.errors import RemoteProtocolError
from teleworkerd.protocol.status import LaunchFailure
from teleworkerd.protocol.types import LaunchStage, Stream


log = logging.getLogger(__name__)

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_NEVER_STARTED: Final = LaunchFailure(
    LaunchStage.FORK, errno.EAGAIN, "the daemon ended before the command was started"
)
_BATCH: Final = 64  # directories, before others have their turn


class BootRecord:
    """The file in *state_dir* that names the run of the kernel that we are in.

    `was_rebooted` says whether earlier keepers were in another one.
    """

    def __init__(self, state_dir: Path, *, boot_id: Path = _BOOT_ID) -> None:
        self._path = state_dir / "boot"
        self._now = _text(boot_id)
        # A file that is empty, or not there, is what a power failure leaves.
        self.was_rebooted = self._now not in ("", _text(self._path))

    def write(self) -> None:
        """Note in which run we are, on the disk, and wait for it; raises `OSError`."""
        write_by_rename(self._path, f"{self._now}\n".encode())
        _sync(self._path)
        _sync(self._path.parent)


class Leftovers:
    """All that earlier keepers left in the directory of jobs.

    `was_rebooted` says whether they were in another run of the kernel.
    """

    def __init__(self, config: Config, means: Means, audit: AuditLog) -> None:
        self._audit = audit
        self._jobs_dir = config.jobs_dir
        self._means = means
        self._boot = BootRecord(config.state_dir)
        self.was_rebooted = self._boot.was_rebooted

    async def clear(self) -> None:
        """End what still runs, write down what became of it, count what is kept."""
        left = self._means.driver.leftovers()

        for path in sorted(self._jobs_dir.iterdir()):
            directory = JobDirectory(path)

            if not is_job_name(path.name):
                continue

            if directory.has_ended:
                if path.name in left:
                    await self._bury(path.name, "has ended, but left something behind")

                continue

            await self._bury(path.name, "outlived its keeper: ended")
            self._write(
                partial(conclude, directory, was_rebooted=self.was_rebooted),
                f"what became of job {path.name}",
            )
            self._note(directory)

        self._write(self._boot.write, "in which run of the kernel we are")
        await count_leftovers(self._jobs_dir, self._means.quota)

    def _note(self, directory: JobDirectory) -> None:
        name, owner = directory.path.name, owner_of(directory) or ""

        if (loss := directory.read_loss()) is not None:
            self._audit.lost(name, owner, loss.why)
        else:
            self._audit.never_ran(name, owner, _NEVER_STARTED)

    async def _bury(self, job_id: str, why: str) -> None:
        cgroup = self._means.driver.leftover(job_id)

        if cgroup is not None:
            log.warning("job %s %s", job_id, why)
            spared = SpareCgroup(job_id, cgroup, self._means.spare)
            await end_tree(spared, linger=0)
            await remove_groups(spared)

    def _write(self, write: Callable[[], None], what: str) -> None:
        try:
            self._means.reserve.spend(write)
        except OSError as error:
            log.error("%s cannot be written down: %s", what, error)


def conclude(directory: JobDirectory, *, was_rebooted: bool) -> None:
    """Write down what became of a job that ended without its keeper.

    Raises `OSError`.
    """
    if was_rebooted:
        # What was written last may not have reached the disk.
        directory.write_loss(LossRecord("the machine was restarted before it ended"))
    elif directory.launch.exists():
        directory.write_loss(LossRecord(_without_keeper(directory)))
    else:
        directory.write_failure(FailureRecord(_NEVER_STARTED, time.time_ns()))


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _without_keeper(directory: JobDirectory) -> str:
    if directory.read_launched() is None:
        return "its keeper was killed while it was being started: it may have run"

    return "its keeper was killed, or crashed, while it ran"


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


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
