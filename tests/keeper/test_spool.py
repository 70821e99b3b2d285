"""From pipe to file: every byte, in order, whatever the disk says."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from teleworkerd.jobdir import JobDirectory
from teleworkerd.keeper.messages import JobExited, OutputGrown, OutputHeldUp
from teleworkerd.keeper.orders import SignalJob
from teleworkerd.keeper.records import SpoolIndex
from teleworkerd.output.index import IndexRecord, OutputIndex
from teleworkerd.protocol.types import Stream
from tests.keeper.kept import KeeperProcess, Place, eventually, with_jobs
from tests.keeper.moving import (
    DISK,
    Moving,
    fill,
    no_room,
    rest,
    scheduled,
    small_disk,
    until,
)


OUT, ERR = Stream


@pytest.mark.parametrize("seed", range(3))
def test_every_byte(tmp_path: Path, seed: int) -> None:
    """Pieces of any size arrive as they were written, and growth is told in order."""
    chance = random.Random(seed)

    async def scenario() -> None:
        moving = Moving(tmp_path / "job")

        for _ in range(100):
            size = chance.choice([1, 7, 4095, 4096, 70_000])
            await moving.write(chance.randbytes(size), chance.choice([OUT, ERR]))

        await moving.end()
        told = [(grown.stdout, grown.stderr) for grown in grown_of(moving)]

        assert moving.output(OUT) == moving.written[OUT]
        assert moving.output(ERR) == moving.written[ERR]
        assert moving.gaps() == []
        assert told == sorted(set(told))

    asyncio.run(scenario())


def grown_of(moving: Moving) -> list[OutputGrown]:
    """Return what was told of growth."""
    return [message for message in moving.told if isinstance(message, OutputGrown)]


def test_order_of_the_streams(tmp_path: Path) -> None:
    """Each move has its record: the order of what came by turns is in the index."""
    turns = [(OUT, b"one"), (ERR, b"2"), (OUT, b"three"), (ERR, b"4"), (OUT, b"5")]

    async def scenario() -> None:
        moving = Moving(tmp_path / "job")

        for stream, data in turns:
            await moving.say(data, stream)

        await moving.end()

        with OutputIndex(moving.directory.index) as index:
            steps = [step for step in index.steps(0, 0) if step is not None]

        assert [
            (step.stream, moving.output(step.stream)[step.offset : step.stop])
            for step in steps
        ] == turns

    asyncio.run(scenario())


def test_record_comes_first(tmp_path: Path) -> None:
    """Who is told of growth finds it in the index."""

    async def scenario() -> None:
        moving = Moving(tmp_path / "job")
        found: list[IndexRecord] = []
        moving.spools._index._grown = lambda: found.append(moving.records()[-1])

        for size in (1, 100, 200_000, 3):
            await moving.say(bytes(size))

        assert [record.stdout for record in found][-1] == 200_104
        assert found == moving.records()

        moving.discard()

    asyncio.run(scenario())


def test_clock_that_steps_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The times of the records never fall."""
    clock = iter([1000, 900, 2000, 1, 2001])
    monkeypatch.setattr(time, "time_ns", lambda: next(clock))

    async def scenario() -> None:
        moving = Moving(tmp_path / "job")

        for _ in range(5):
            await moving.say(b"x")

        moving.discard()

        assert [record.time for record in moving.records()] == [
            *(1000, 1000, 2000, 2000, 2001)
        ]

    asyncio.run(scenario())


def test_record_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no record is not told, until the next record or the same one stands."""
    monkeypatch.setattr("teleworkerd.keeper.records._RETRY", 0.02)

    async def scenario() -> None:
        moving = Moving(tmp_path / "job")
        await moving.say(b"one")

        with monkeypatch.context() as full:
            full.setattr(os, "pwrite", no_room)
            await moving.write(b"two")
            await until(lambda: moving.spool().end == 6)
            assert moving.spools.ends == (3, 0)

        await until(lambda: moving.spools.ends == (6, 0))

        with monkeypatch.context() as full:
            full.setattr(os, "pwrite", no_room)
            await moving.write(b"3")
            await until(lambda: moving.spool().end == 7)

        await moving.say(b"4", ERR)
        await moving.end()

        assert [(record.stdout, record.stderr) for record in moving.records()] == [
            *((3, 0), (6, 0), (7, 1))
        ]
        assert [grown.stdout for grown in grown_of(moving)] == [3, 6, 7]

    asyncio.run(scenario())


def test_index_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end comes when the last record says everything."""
    monkeypatch.setattr("teleworkerd.keeper.records._RETRY", 60)
    monkeypatch.setattr("teleworkerd.keeper.spools._SETTLE_RETRY", 0.01)

    async def scenario() -> None:
        moving = Moving(tmp_path / "job")

        with monkeypatch.context() as full:
            full.setattr(os, "pwrite", no_room)
            await moving.write(b"one")
            ending = asyncio.create_task(moving.end())
            await moving.spools.ended()
            await rest()
            assert not ending.done()

        await ending

    asyncio.run(scenario())


def test_nothing_left_at_the_end(tmp_path: Path) -> None:
    """Whatever waits at a close, for a limit or a disk, is cancelled."""

    async def scenario(disk: Path) -> None:
        before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208  numbers
        limited = Moving(tmp_path / "limited", limit=1)
        await limited.write(b"xx")
        await until(lambda: limited.held_up)
        full = Moving(disk / "full")
        writing = asyncio.create_task(full.write(bytes(DISK)))
        await until(lambda: full.held_up)
        writing.cancel()
        assert scheduled()

        for moving in (limited, full):
            moving.discard()
            moving.discard()

        assert scheduled() == []
        assert not limited.quota.waiting
        assert sorted(os.listdir("/proc/self/fd")) == before  # noqa: PTH208  as above

    with small_disk(tmp_path / "disk") as disk:
        (disk / "ballast").write_bytes(bytes(DISK // 2))
        asyncio.run(scenario(disk))


def test_full_disk(tmp_path: Path) -> None:
    """On a full disk the job waits and the loop rests; with room all arrives."""
    data = random.Random(1).randbytes(DISK * 3 // 4)

    async def scenario(disk: Path) -> None:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(DISK // 2))
        moving = Moving(disk / "job")
        writing = asyncio.create_task(moving.write(data))
        await until(lambda: moving.held_up)
        calls = count_moves(moving)
        await asyncio.sleep(0.5)

        assert len(calls) < 5
        assert not writing.done()
        assert moving.held_up == "the disk is full"

        ballast.unlink()
        await writing
        await moving.end()

        assert moving.output() == data
        assert [held.why for held in moving.told if isinstance(held, OutputHeldUp)] == [
            "the disk is full",
            None,
        ]

    with small_disk(tmp_path / "disk") as disk:
        asyncio.run(scenario(disk))


def count_moves(moving: Moving) -> list[object]:
    """Note each attempt that the spool of stdout makes from now on."""
    calls: list[object] = []
    spool = moving.spool()
    move: Callable[[], None] = spool._move

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

            (place.state / "reserve").unlink()
            fill(place.state / "ballast")

            log = keeper.close()

        assert "its exit record must wait" in log
        assert not job.directory.exit.exists()


def pipes(names: list[str]) -> list[str]:
    """Return those of *names* that are pipes."""
    return [name for name in names if name.startswith("pipe:")]


def test_half_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that a full disk took half of does not shift those after it."""
    pwrite = os.pwrite

    async def scenario() -> None:
        directory = JobDirectory(tmp_path / "job")
        directory.create()
        index = SpoolIndex(directory, grown=lambda: None)
        index.kept(OUT, 5)

        with monkeypatch.context() as full:
            full.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:16], at))
            index.kept(OUT, 6)

        index.kept(OUT, 7)
        index.close()

        with OutputIndex(directory.index) as records:
            assert [record.stdout for record in records] == [5, 7]

    asyncio.run(scenario())
