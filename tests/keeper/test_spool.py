"""From pipe to file: every byte, in order, whatever the disk says."""

import asyncio
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from teleworkerd.jobdir import JobDirectory
from teleworkerd.keeper.messages import JobExited, SignalJob
from teleworkerd.keeper.spool import Spool, SpoolIndex
from teleworkerd.output.index import RECORD, IndexRecord
from teleworkerd.protocol.types import Stream
from tests.keeper.kept import KeeperProcess, Place, eventually, with_jobs


PIPE: Final = 64 << 10
DISK: Final = 1 << 20


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """Mount a disk of `DISK` bytes at *path*."""
    path.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=755", "tmpfs", path],
        check=True,
    )

    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


class Moving:
    """A spool that moves, and what it told about it."""

    def __init__(self, path: Path) -> None:
        self.directory = JobDirectory(path)
        self.directory.create()
        self.index = SpoolIndex(self.directory)
        self.told: list[int] = []
        self.changed = asyncio.Event()
        self.spool = Spool(
            self.directory,
            Stream.STDOUT,
            index=self.index,
            pipe=PIPE,
            grown=self._grown,
        )
        self.pipe = os.dup(self.spool.write_end)
        os.set_blocking(self.pipe, False)
        self.spool.launched()

    def _grown(self) -> None:
        self.told.append(self.spool.size)
        self.changed.set()

    async def write(self, data: bytes) -> None:
        """Write *data* as a job would, waiting while the pipe is full."""
        while data:
            with suppress(BlockingIOError):
                data = data[os.write(self.pipe, data) :]

            await asyncio.sleep(0)

    async def end(self) -> bytes:
        """Close the pipe, wait for the end, return the spool's bytes."""
        os.close(self.pipe)
        async with asyncio.timeout(10):
            await self.spool.ended.wait()

        self.index.close()
        return self.directory.spool(Stream.STDOUT).read_bytes()

    def records(self) -> list[IndexRecord]:
        """Return the records of the index."""
        data = self.directory.index.read_bytes()
        return [
            IndexRecord.unpack(data[at : at + RECORD.size])
            for at in range(0, len(data), RECORD.size)
        ]


@pytest.mark.parametrize("seed", range(3))
def test_every_byte(tmp_path: Path, seed: int) -> None:
    """Pieces of any size arrive as they were written."""
    chance = random.Random(seed)
    pieces = [
        chance.randbytes(chance.choice([1, 7, 4095, 4096, 70_000])) for _ in range(100)
    ]

    async def scenario() -> None:
        moving = Moving(tmp_path / "job")

        for piece in pieces:
            await moving.write(piece)

        assert await moving.end() == b"".join(pieces)
        assert moving.spool.size == sum(map(len, pieces))
        assert moving.told == sorted(set(moving.told))

    asyncio.run(scenario())


def test_index(tmp_path: Path) -> None:
    """The records cover the bytes without gap or overlap, in the order of time."""

    async def scenario() -> None:
        moving = Moving(tmp_path / "job")

        for size in (1, 100, 200_000, 3):
            moving.changed.clear()
            await moving.write(bytes(size))
            await moving.changed.wait()

        data = await moving.end()
        records = moving.records()
        ends = [record.offset + record.length for record in records]

        assert [record.offset for record in records] == [0, *ends[:-1]]
        assert ends[-1] == len(data)
        assert {record.stream for record in records} == {Stream.STDOUT}
        assert [record.time for record in records] == sorted(
            record.time for record in records
        )

    asyncio.run(scenario())


def test_full_disk(tmp_path: Path) -> None:
    """On a full disk the job waits and the loop rests; with room all arrives."""
    data = random.Random(1).randbytes(DISK * 3 // 4)

    async def scenario(disk: Path) -> None:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(DISK // 2))
        moving = Moving(disk / "job")
        writing = asyncio.create_task(moving.write(data))
        await until(lambda: moving.spool.is_held_up)
        calls = count_moves(moving.spool)
        await asyncio.sleep(0.5)

        assert len(calls) < 5
        assert not writing.done()

        ballast.unlink()
        await writing
        assert await moving.end() == data
        assert not moving.spool.is_held_up

    with small_disk(tmp_path / "disk") as disk:
        asyncio.run(scenario(disk))


async def until(condition: Callable[[], bool]) -> None:
    """Wait until *condition* holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  a full disk sends no event
            await asyncio.sleep(0.01)


def count_moves(spool: Spool) -> list[object]:
    """Note each attempt that *spool* makes from now on."""
    calls: list[object] = []
    move = spool._move

    def counted() -> None:
        calls.append(None)
        move()

    spool._move = counted  # type: ignore[method-assign]  # to look, not to change
    return calls


def test_end_before_the_job(keeper: KeeperProcess) -> None:
    """A job that closes its output early runs on, and its end is not missed."""
    before = keeper.open_files()
    job = keeper.launch("sh", "-c", "echo x; exec >&- 2>&-; sleep 60; exit 3")
    pid = job.launched().launched.pid
    job.wait_for_output(b"x\n")
    eventually(
        lambda: pipes(keeper.open_files()) == pipes(before), what="end of both pipes"
    )

    assert Path(f"/proc/{pid}").exists()

    keeper.send(SignalJob(job.id, signal.SIGTERM, tree=True))
    record = job.exited()

    assert (record.stdout, record.truncated) == (2, False)


def test_background_child(keeper: KeeperProcess) -> None:
    """What a job leaves behind with its output open is given a moment, then ended."""
    record, text = keeper.run("sh", "-c", "(echo $$; sleep 60) & echo done; exit 5")

    assert record.exit_code == 5
    assert b"done" in text.split()
    assert not record.truncated


def test_late_output(keeper: KeeperProcess) -> None:
    """What a child writes shortly after the main process is not lost."""
    record, text = keeper.run("sh", "-c", "(sleep 0.1; echo late) & exit 0")

    assert (record.exit_code, text) == (0, b"late\n")


def test_exit_with_a_full_pipe(keeper: KeeperProcess) -> None:
    """A job that ends at once after a lot of output loses none of it."""
    record, text = keeper.run("head", "-c", "3000000", "/dev/zero")

    assert record.stdout == len(text) == 3_000_000
    assert text.count(0) == len(text)


def test_full_disk_after_the_job(place: Place) -> None:
    """Bytes that wait for the disk are not given up, however long that takes."""
    with small_disk(place.state):
        config = with_jobs(place.config(), drain_timeout=0.2, linger=0)

        with KeeperProcess(config) as keeper:
            ballast = place.state / "ballast"
            ballast.write_bytes(bytes(DISK - (256 << 10)))
            job = keeper.launch("head", "-c", "600000", "/dev/zero")
            pid = job.launched().launched.pid
            eventually(lambda: not Path(f"/proc/{pid}").exists(), what="the job's end")
            assert not keeper.has_told(JobExited, seconds=1.0)

            ballast.unlink()
            record = job.exited()

            assert (record.stdout, record.truncated) == (600_000, False)
            assert len(job.output()) == 600_000


def test_end_with_a_full_disk(place: Place) -> None:
    """A disk that stays full does not keep the keeper from ending."""
    change = (
        "import teleworkerd.keeper.keeper as keeper\n"
        "keeper.KILL_TIMEOUT = keeper.REMOVE_TIMEOUT = 0.2"
    )

    with small_disk(place.state):
        config = with_jobs(place.config(), drain_timeout=0.2, linger=0)

        with KeeperProcess(config, change=change) as keeper:
            job = keeper.launch("sleep", "100")
            job.launched()

            with suppress(OSError):
                (place.state / "ballast").write_bytes(bytes(2 * DISK))

            log = keeper.close()

        assert "its exit record must wait" in log
        assert not job.directory.exit.exists()


def pipes(names: list[str]) -> list[str]:
    """Return those of *names* that are pipes."""
    return [name for name in names if name.startswith("pipe:")]


def test_half_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that a full disk took half of does not shift those after it."""
    directory = JobDirectory(tmp_path / "job")
    directory.create()
    index = SpoolIndex(directory)
    records = [IndexRecord(time, Stream.STDERR, 8, 9) for time in range(3)]
    pwrite = os.pwrite

    index.append(records[0])

    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:16], at))
        index.append(records[1])

    index.append(records[2])
    index.close()

    data = directory.index.read_bytes()
    assert data == records[0].pack() + records[2].pack()
