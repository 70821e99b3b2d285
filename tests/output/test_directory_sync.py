"""What jobs leave is brought to the disk, and a disk that refused is never trusted."""

import asyncio
import errno
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from teleworkerd.output import sync as module
from teleworkerd.output.sync import DirectorySync, Syncer, SyncFailed
from teleworkerd.spare import Spare
from tests.fakes import DEADLINE
from tests.output.disk import Disk, all_of, failing


INTERVAL: Final = 0.02  # seconds
LONG: Final = 3600.0


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A disk that is in order until the test wants it otherwise."""
    disk = Disk()
    monkeypatch.setattr(os, "fdatasync", disk)
    return disk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The directory of a job, with two files."""
    path = tmp_path / "job"
    path.mkdir()

    for name in ("stdout", "exit"):
        (path / name).write_bytes(b"x")

    return path


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Check that none of the threads that wait for the disk outlives the test."""
    before = set(threading.enumerate())
    yield
    names = [thread.name for thread in set(threading.enumerate()) - before]
    assert not any(name.startswith("sync_") for name in names)


def descriptors() -> int:
    """Return how many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  their number


class Case:
    """A directory that is brought to the disk, and the failures that are told."""

    def __init__(self, path: Path, interval: float, spare: Spare | None = None) -> None:
        self.path = path
        self.failures: list[SyncFailed] = []
        self.syncer = Syncer(interval, spare)
        self.sync = DirectorySync(path, self.syncer, failed=self._failed)

    async def _failed(self, failure: SyncFailed) -> None:
        self.failures.append(failure)

    def close(self) -> None:
        """End it."""
        self.sync.cancel()
        self.syncer.close()


Make = Callable[..., Case]


@pytest_asyncio.fixture
async def make(path: Path) -> AsyncIterator[Make]:
    """Make cases that end with the test, and leave no task behind."""
    cases = []

    def make(interval: float = LONG, spare: Spare | None = None) -> Case:
        cases.append(Case(path, interval, spare))
        return cases[-1]

    yield make

    for case in cases:
        case.close()

    async with asyncio.timeout(DEADLINE):
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)


async def until(look: Callable[[], object]) -> None:
    """Return once *look* is true."""
    async with asyncio.timeout(DEADLINE):
        while not look():  # noqa: ASYNC110 - a thread tells no event of the loop
            await asyncio.sleep(0.002)


async def test_finish(make: Make, path: Path, disk: Disk) -> None:
    """It is all there on return, without waiting for the interval."""
    case = make()
    await case.sync.finish()

    assert sorted(disk.synced) == all_of(path)
    assert case.failures == []


async def test_changes_are_gathered(make: Make, path: Path, disk: Disk) -> None:
    """Many changes within the interval are one work for the disk; then comes more."""
    case = make(INTERVAL)

    for _ in range(100):
        case.sync.changed()

    assert disk.synced == []
    await until(lambda: len(disk.synced) == 4)
    assert sorted(disk.synced) == all_of(path)

    case.sync.changed()
    await until(lambda: len(disk.synced) == 8)


async def test_nothing_changes(make: Make, disk: Disk) -> None:
    """Who changes nothing costs the disk nothing."""
    case = make(INTERVAL)
    case.sync.changed()
    await until(lambda: len(disk.synced) == 4)
    await asyncio.sleep(3 * INTERVAL)

    assert len(disk.synced) == 4


async def test_not_wanted(make: Make, disk: Disk) -> None:
    """Without an interval nobody waits for the disk, and nothing is done."""
    case = make(0.0)
    case.sync.changed()

    assert not case.sync.is_wanted
    assert disk.synced == []


async def test_wanted_later(make: Make, path: Path, disk: Disk) -> None:
    """Who wants it only after a reload has the threads for it."""
    case = make(interval=0)
    case.syncer.interval = LONG
    await case.sync.finish()

    assert sorted(disk.synced) == all_of(path)
    names = [thread.name for thread in threading.enumerate()]
    assert sum(name.startswith("sync_") for name in names) == 4


async def test_slow_disk(make: Make, disk: Disk) -> None:
    """While the disk works no second work is begun; what changed meanwhile waits."""
    case = make(INTERVAL)
    disk.gate.clear()
    case.sync.changed()
    await until(disk.called.is_set)
    case.sync.changed()
    await asyncio.sleep(3 * INTERVAL)
    assert disk.synced == []

    disk.gate.set()

    await until(lambda: len(disk.synced) == 8)


async def test_finish_while_the_disk_works(make: Make, disk: Disk) -> None:
    """What is under way may lack the last change: the end has a work of its own."""
    case = make(INTERVAL)
    disk.gate.clear()
    case.sync.changed()
    await until(disk.called.is_set)
    ending = asyncio.create_task(case.sync.finish())
    await asyncio.sleep(0)
    disk.gate.set()
    await ending

    assert len(disk.synced) == 8


async def test_failure_is_for_good(make: Make, disk: Disk) -> None:
    """After a failure there is no second try: it would succeed and mean nothing."""
    case = make(INTERVAL)
    disk.errors = [errno.EIO]
    case.sync.changed()
    await until(lambda: case.failures)
    count = len(disk.synced)
    case.sync.changed()
    await asyncio.sleep(3 * INTERVAL)

    for _ in range(2):
        with pytest.raises(SyncFailed) as failed:
            await case.sync.finish()

        assert failed.value.errno == errno.EIO

    assert len(case.failures) == 1
    assert len(disk.synced) == count == 1


async def test_failure_at_the_end(make: Make, disk: Disk) -> None:
    """It is told, and raised."""
    case = make()
    disk.errors = [0, errno.ENOSPC]

    with pytest.raises(SyncFailed) as failed:
        await case.sync.finish()

    assert case.failures == [failed.value]


async def test_others_are_not_concerned(make: Make, disk: Disk) -> None:
    """Each job has its own failure."""
    first, second = make(), make()
    disk.errors = [errno.EIO]

    with pytest.raises(SyncFailed):
        await first.sync.finish()

    await second.sync.finish()
    assert second.failures == []


async def test_no_descriptor(
    make: Make, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a descriptor it is tried again, with those that were kept for it."""
    monkeypatch.setattr(module, "_RETRY", INTERVAL)
    spare = Spare(2)
    case = make(spare=spare)
    held = descriptors()
    monkeypatch.setattr(os, "open", failing(errno.EMFILE, times=3))

    await case.sync.finish()

    assert len(disk.synced) == 4
    assert case.failures == []
    assert descriptors() == held - 2
    spare.close()


async def test_no_memory(
    make: Make, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a want of memory the end of it."""
    monkeypatch.setattr(module, "_RETRY", INTERVAL)
    errors = [MemoryError()]
    work = module.sync

    def lacking(path: Path) -> None:
        if errors:
            raise errors.pop()

        work(path)

    monkeypatch.setattr(module, "sync", lacking)
    case = make()

    await case.sync.finish()

    assert len(disk.synced) == 4


async def test_directory_that_goes(make: Make, path: Path, disk: Disk) -> None:
    """A job that is removed meanwhile has nothing that could be missing."""
    case = make(INTERVAL)
    case.sync.changed()

    shutil.rmtree(path)
    await case.sync.finish()

    assert disk.synced == []
    assert case.failures == []


async def test_cancel(make: Make, disk: Disk) -> None:
    """What waits is given up, and twice is no harm."""
    case = make(INTERVAL)
    case.sync.changed()
    case.sync.cancel()
    case.sync.cancel()
    await asyncio.sleep(3 * INTERVAL)

    assert disk.synced == []


async def test_close_waits_for_the_disk(make: Make, disk: Disk) -> None:
    """A thread that works comes to its end; what was not begun is not done."""
    case = make(INTERVAL)
    disk.gate.clear()
    case.sync.changed()
    await until(disk.called.is_set)
    threading.Timer(INTERVAL, disk.gate.set).start()

    case.syncer.close()

    assert len(disk.synced) == 4


async def test_real_disk(make: Make) -> None:
    """A disk that is in order takes it."""
    case = make()

    await case.sync.finish()

    assert case.failures == []
