"""A disk that fails, and a keeper without memory or descriptors."""

import asyncio
import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from teleworkerd.keeper.orders import SignalJob
from teleworkerd.keeper.quota import Bound
from teleworkerd.output.gaps import read_gaps
from teleworkerd.protocol.types import OnFull, Reason, Stream
from tests.keeper.kept import KeeperProcess, Place
from tests.keeper.moving import PIPE, Moving, until
from tests.scarce import no_descriptors


OUT, ERR = Stream
FAULTS: Final = [errno.EIO, errno.EROFS]

# A disk on which no spool grows and, if that is wanted, no gap is recorded.
BROKEN: Final = """
import errno, os
from teleworkerd.keeper.records import GapFile

splice = os.splice

def fail(*_, **__):
    raise OSError({number}, os.strerror({number}))

def broken(source, target, count, **options):
    return fail() if options else splice(source, target, count)

os.splice = broken

if {without_gaps}:
    GapFile.claim = fail
"""


def failing(error: Exception) -> Callable[..., Any]:
    """Return what raises *error*, however it is called."""

    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@contextmanager
def broken_spools(error: Exception) -> Iterator[list[object]]:
    """Let no spool take anything; yields the attempts."""
    splice = os.splice
    tried: list[object] = []

    def broken(source: int, target: int, count: int, **options: Any) -> int:
        if options:
            tried.append(None)
            raise error

        return splice(source, target, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "splice", broken)
        yield tried


def fault(number: int) -> OSError:
    """Return the error of that number."""
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", FAULTS)
@pytest.mark.parametrize("on_full", OnFull)
def test_fault_that_is_given_up(tmp_path: Path, on_full: OnFull, number: int) -> None:
    """Who does not wait for a disk that fails gets a gap; no limit was reached."""

    async def scenario() -> None:
        moving = Moving(tmp_path / "job", on_full=on_full)
        await moving.say(b"kept")

        with broken_spools(fault(number)):
            await moving.write(b"lost")
            await until(lambda: moving.held_up)
            moving.spools.give_up(Bound.JOB, Bound.SHARED, Bound.DISK)
            assert moving.held_up

            moving.spools.give_up(*Bound)
            await until(lambda: moving.spool().end == 8)

        await moving.end()

        assert moving.gaps() == [(4, 8)]
        assert moving.exceeded == []

    asyncio.run(scenario())


def test_gap_that_cannot_be_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the disk does not even take a gap the stream ends, and that is known."""

    async def scenario() -> None:
        moving = Moving(tmp_path / "job")
        await moving.say(b"kept")
        monkeypatch.setattr(moving.spools._gaps, "claim", failing(fault(errno.EIO)))

        with broken_spools(fault(errno.EIO)):
            await moving.write(b"lost")
            await until(lambda: moving.held_up)
            moving.spools.give_up(*Bound)
            moving.pipes.reverse()
            os.close(moving.pipes.pop(0))
            await until(moving.spool().ended.is_set)

        assert not await moving.spools.settle()
        assert (moving.spools.ends, moving.dropped) == ((4, 0), 0)
        assert moving.held_up is None

        moving.discard()

    asyncio.run(scenario())
    assert "job/stdout is cut off: output cannot be kept now: Input/output" in (
        caplog.text
    )


def test_index_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that stays short counts for what it says, gaps too."""
    monkeypatch.setattr("teleworkerd.keeper.records._RETRY", 60)
    monkeypatch.setattr("teleworkerd.keeper.spools._SETTLE_RETRY", 0.01)

    async def scenario() -> None:
        moving = Moving(tmp_path / "job", limit=2, on_full=OnFull.DROP)
        await moving.say(b"abcd")
        write = failing(fault(errno.EROFS))
        monkeypatch.setattr(moving.spools._index._file, "write", write)
        await moving.write(b"efgh")
        await until(lambda: moving.spool().end == 8)
        settling = asyncio.create_task(moving.spools.settle())
        await asyncio.sleep(0.1)
        assert not settling.done()

        moving.spools.give_up(*Bound)

        assert not await settling
        assert (moving.spools.ends, moving.dropped) == ((4, 0), 2)

        moving.discard()

    asyncio.run(scenario())


@pytest.mark.parametrize("number", FAULTS)
@pytest.mark.parametrize("broken", ["spools", "gaps"])
def test_killed_while_the_disk_fails(place: Place, number: int, broken: str) -> None:
    """A job that is killed ends, and says what is missing."""
    without_gaps = broken == "gaps"
    change = BROKEN.format(number=number, without_gaps=without_gaps)

    with KeeperProcess(place.config(), change=change) as keeper:
        job = keeper.launch("cat", "/dev/zero")
        job.launched()
        assert os.strerror(number) in str(job.held_up())

        keeper.send(SignalJob(job.id, signal.SIGKILL, tree=False))
        record = job.exited()

    gaps = [(gap.offset, gap.stop) for gap in read_gaps(job.directory.gaps)]

    assert record.reason is Reason.KILLED
    assert record.truncated is without_gaps
    assert record.stdout == record.stdout_dropped
    assert gaps == ([] if without_gaps else [(0, record.stdout)])


@pytest.mark.parametrize("on_full", OnFull)
def test_no_memory(tmp_path: Path, on_full: OnFull) -> None:
    """Without memory nothing is lost, and the loop rests."""

    async def scenario() -> None:
        moving = Moving(tmp_path / "job", on_full=on_full)

        with broken_spools(MemoryError()) as tried:
            await moving.write(b"abc")
            await until(lambda: moving.held_up)
            moving.spools.give_up(*Bound)
            await asyncio.sleep(0.2)
            assert len(tried) < 5

        assert moving.held_up == (
            "output cannot be kept now: the daemon has no memory left"
        )

        await until(moving.is_quiet)
        await moving.end()

        assert moving.kept == 3
        assert moving.held_up is None

    asyncio.run(scenario())


def test_no_memory_to_drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a gap forgotten, or the loop kept busy, while one cannot be made."""
    tried: list[object] = []

    def claim(*_: object) -> None:
        tried.append(None)
        raise MemoryError

    async def scenario() -> None:
        moving = Moving(tmp_path / "job", limit=1, on_full=OnFull.DROP)

        with monkeypatch.context() as patch:
            patch.setattr(moving.spools._gaps, "claim", claim)
            await moving.write(b"abc")
            await until(lambda: moving.held_up)
            await asyncio.sleep(0.2)
            assert len(tried) < 5

        await until(moving.is_quiet)
        await moving.end()

        assert moving.gaps() == [(1, 3)]

    asyncio.run(scenario())


def test_no_memory_for_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record of the index is tried again, as on a full disk."""
    monkeypatch.setattr("teleworkerd.keeper.records._RETRY", 0.01)

    async def scenario() -> None:
        moving = Moving(tmp_path / "job")

        with monkeypatch.context() as patch:
            write = failing(MemoryError())
            patch.setattr(moving.spools._index._file, "write", write)
            await moving.write(b"abc")
            await until(lambda: moving.spool().end == 3)
            assert moving.spools.ends == (0, 0)

        await until(moving.is_quiet)
        await moving.end()

    asyncio.run(scenario())


@pytest.mark.parametrize("on_full", [OnFull.DROP, OnFull.BLOCK])
def test_no_descriptors(tmp_path: Path, on_full: OnFull) -> None:
    """What is to be dropped is, when nothing can be opened."""

    async def scenario() -> None:
        moving = Moving(tmp_path / "job", limit=1, on_full=on_full)

        with no_descriptors():
            if on_full is OnFull.BLOCK:
                moving.spools.give_up(*Bound)

            await moving.write(bytes(3 * PIPE))

        await moving.end()

        assert moving.gaps() == [(1, 3 * PIPE)]

    asyncio.run(scenario())
