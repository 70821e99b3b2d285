"""A store on a full disk: what has been acknowledged stays, what waits is written."""

import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from teleworkerd.protocol.types import JobState
from teleworkerd.reserve import Reserve
from teleworkerd.store import JobRecord, JobStore, StoreError, jobstore
from tests.fakes import DEADLINE, record_of
from tests.keeper.kept import ROOT
from tests.keeper.moving import fill, small_disk
from tests.store.faults import ids, run_sql


pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts disks")

SIZE: Final = 4 << 20  # bytes of a disk with a file system of its own
STEP: Final = 4 << 10
LEVELS: Final = range(0, (160 << 10) + 1, STEP)

# Opens and writes with so much room, then with more, for each level; says of each what
# was acknowledged while there was none, and what is there in the end.
WRITER: Final = """
import asyncio, json, os, pathlib, sys
from teleworkerd.store import JobStore, StoreError, jobstore
from tests.fakes import record_of

jobstore._RETRY = 0.005
path, ballast = map(pathlib.Path, sys.argv[1:3])

async def write(level):
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()

    disk = os.statvfs(path.parent)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - level)

    store = JobStore(path)
    acknowledged, refused = [], []

    try:
        await store.open()
    except StoreError:
        ballast.unlink()
        await store.open()

    for number in range(12):
        record = record_of(f"{number:02}", command=(b"x" * 16000,))
        try:
            await store.save(record)
        except StoreError as error:
            refused.append(record.status.id)
        else:
            acknowledged.append(record.status.id)

    ballast.unlink(missing_ok=True)
    await store.save(record_of("last"))
    await store.close()
    store = await JobStore(path).open()
    found = [record.status.id for record in await store.load()]
    await store.close()
    print(json.dumps([acknowledged, refused, found, store.was_broken]), flush=True)

for level in map(int, sys.argv[3:]):
    asyncio.run(write(level))
"""

# Says which record is on disk as soon as it is.
SAVER: Final = """
import asyncio, pathlib, sys
from teleworkerd.store import JobStore
from tests.fakes import record_of

async def save():
    store = await JobStore(pathlib.Path(sys.argv[1])).open()
    number = 0

    while True:
        number += 1
        await store.save(record_of(f"{number % 50}", exit_code=number))
        print(number, flush=True)

asyncio.run(save())
"""


def large_record(number: int, *, pid: int = 1000) -> JobRecord:
    """Return a record that takes a page of its own, and no more for any *pid*."""
    return record_of(f"{number}", command=(b"x" * 3000,), pid=pid)


def size_of(path: Path) -> int:
    """Return how large the file is."""
    return path.stat().st_size


def remove(path: Path) -> None:
    """Give back the room of the file."""
    path.unlink()


async def written(store: JobStore) -> int:
    """Save one record after the other; return the number of the first refused one."""
    for number in itertools.count(1):
        try:
            await store.save(large_record(number))
        except StoreError:
            return number

    raise AssertionError


@contextmanager
def ext4(path: Path) -> Iterator[Path]:
    """Mount a disk of `SIZE` bytes with a file system of its own at *path*."""
    path.mkdir()
    backing = path.with_suffix(".image")

    with ExitStack() as undo:
        undo.callback(backing.unlink)
        backing.write_bytes(bytes(SIZE))
        # Such blocks are smaller than a page of memory: what is written through a
        # mapping may find no room for the rest of a page.
        make = ("mkfs.ext4", "-q", "-m", "0", "-b", "1024", "-O", "^has_journal")
        subprocess.run([*make, backing], check=True)
        subprocess.run(["mount", "-o", "loop", backing, path], check=True)
        undo.callback(unmount, path)
        yield path


def unmount(path: Path) -> None:
    """Take the disk away, whatever is open on it."""
    subprocess.run(["umount", "--lazy", path], check=True)


@pytest.mark.slow
def test_every_little_room(tmp_path: Path) -> None:
    """With hardly any room a write works or is refused, and never ends the process."""
    with ext4(tmp_path / "disk") as disk:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                WRITER,
                disk / "jobs.sqlite",
                disk / "ballast",
                *map(str, LEVELS),
            ],
            cwd=ROOT,
            check=False,
            capture_output=True,
            timeout=50,
        )

    assert done.returncode == 0, done.stderr.decode()[-2000:]
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(LEVELS)
    every = [f"{number:02}" for number in range(12)]

    for acknowledged, refused, found, was_broken in results:
        assert sorted(acknowledged + refused) == every
        assert found == sorted([*every, "last"])
        assert not was_broken

    assert any(refused for _, refused, _, _ in results)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_killed_while_it_writes(path: Path, seed: int) -> None:
    """What was acknowledged before a kill -9 is there after it."""
    saver = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SAVER, path, cwd=ROOT, stdout=subprocess.PIPE
    )
    assert saver.stdout is not None

    async with asyncio.timeout(DEADLINE):
        await saver.stdout.readline()
        await asyncio.sleep(random.Random(seed).random() / 5)
        saver.send_signal(signal.SIGKILL)
        lines = (await saver.stdout.read()).split(b"\n")
        await saver.wait()

    last = int((b"1", *filter(None, lines[:-1]))[-1])
    store = await JobStore(path).open()
    found = {int(each.status.exit_code or 0) for each in await store.load()}
    await store.close()

    assert not store.was_broken
    assert set(range(max(last - 49, 1), last + 1)) - found <= {last - 49}
    assert max(found) in (last, last + 1)


async def test_reserve_of_the_records(tmp_path: Path) -> None:
    """On a disk that is full records are written from the reserve, and go on so."""
    with small_disk(tmp_path / "disk") as disk:
        store = await JobStore(disk / "jobs.sqlite").open()
        fill(disk / "ballast")

        for number in range(5):
            await store.save(large_record(number))

        assert size_of(disk / "jobs.sqlite.reserve") < 48 << 10
        await store.close()
        store = await JobStore(disk / "jobs.sqlite").open()
        assert await store.load() == [large_record(number) for number in range(5)]
        await store.close()


async def test_states_on_a_full_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without any reserve what is known changes all the same: the log is used again."""
    with small_disk(tmp_path / "disk") as disk:
        store = await JobStore(disk / "jobs.sqlite").open()

        for number in range(10):
            await store.save(large_record(number))

        # As it is after a while: what is known is in the database, and there is a log.
        await run_sql(store, "PRAGMA wal_checkpoint(PASSIVE)")
        await store.save(large_record(0))
        remove(disk / "jobs.sqlite.reserve")
        fill(disk / "ballast")

        for number in range(10):
            for pid in range(1000, 1021):
                await store.save(large_record(number, pid=pid))

        assert [each.status.pid for each in await store.load()] == [1020] * 10
        assert caplog.records == []
        await store.close()


async def test_room_comes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has no room waits, is refused to who waits for it, and is written later."""
    monkeypatch.setattr(jobstore, "_RETRY", 0.01)
    monkeypatch.setattr(jobstore, "_REFILL", 0.01)

    with small_disk(tmp_path / "disk") as disk:
        store = await JobStore(disk / "jobs.sqlite").open()
        fill(disk / "ballast")
        count = await written(store)

        assert "disk is full; make room on its disk" in caplog.text
        assert size_of(disk / "jobs.sqlite.reserve") == 0
        assert len(ids(await store.load())) == count - 1
        remove(disk / "ballast")

        async with asyncio.timeout(DEADLINE):
            while len(caplog.records) < 2:  # noqa: ASYNC110  nobody is told of it
                await asyncio.sleep(0.005)

            while size_of(disk / "jobs.sqlite.reserve") == 0:  # noqa: ASYNC110  as well
                await asyncio.sleep(0.005)

        assert len(ids(await store.load())) == count
        await store.close()


async def test_opened_on_a_full_disk(tmp_path: Path) -> None:
    """A daemon that starts on a full disk has what was kept back for that."""
    with small_disk(tmp_path / "disk") as disk:
        Reserve(disk / "jobs.sqlite.reserve").fill()
        fill(disk / "ballast")
        store = await JobStore(disk / "jobs.sqlite").open()
        await store.save(record_of("a", state=JobState.STARTING))
        await store.close()

        for each in disk.glob("jobs.sqlite*"):
            remove(each)

        fill(disk / "more")

        with pytest.raises(
            StoreError, match=r"jobs\.sqlite: .*; make room on its disk"
        ):
            await JobStore(disk / "jobs.sqlite").open()

        assert list(disk.glob("*.corrupt-*")) == []
