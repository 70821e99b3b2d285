"""What is dropped: written down before it is gone, told before what follows."""

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from teleworkerd.jobdir import JobDirectory
from teleworkerd.keeper.messages import OutputDropped, OutputGrown
from teleworkerd.keeper.records import GapFile
from teleworkerd.output.gaps import Gaps, read_gaps
from teleworkerd.protocol.types import Gap, OnFull, Stream
from tests.keeper.moving import (
    Moving,
    quota_of,
    rest,
    until,
)


OUT, ERR = Stream


class Crash:
    """Looks at a job's files at each instant that its keeper might be killed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looks = 0
        self.moving: Moving | None = None

        for name in ("splice", "pwrite"):
            monkeypatch.setattr(os, name, self._around(getattr(os, name)))

    def _around(self, call: Callable[..., int]) -> Callable[..., int]:
        def wrapped(*arguments: Any, **options: Any) -> int:
            self._look()

            if call.__name__ == "splice" and not options:
                self._look_at_drop(*arguments)

            result = call(*arguments, **options)
            self._look()
            return result

        return wrapped

    def _look_at_drop(self, source: int, _: int, count: int) -> None:
        assert self.moving is not None

        for stream in Stream:
            spool = self.moving.spool(stream)

            if spool._pipe == source:
                _, stop = self.moving.gaps(stream)[-1]
                assert stop >= spool.end + count

    def _look(self) -> None:
        if self.moving is None:
            return

        self.looks += 1

        for stream, written in self.moving.written.items():
            found = self.moving.output(stream)
            missing = bytearray(written[: len(found)])

            for offset, stop in self.moving.gaps(stream):
                missing[offset:stop] = bytes(max(min(stop, len(found)) - offset, 0))

            # What was written has no zeros: one in the file is a hole.
            assert found == missing[: len(found)]


def test_crash_at_any_instant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No hole is ever in a spool without its record, and no byte kept has one."""
    chance = random.Random(7)
    crash = Crash(monkeypatch)

    async def scenario() -> None:
        quota = quota_of(owner=40_000)
        moving = crash.moving = Moving(
            tmp_path / "job", quota=quota, on_full=OnFull.DROP
        )

        for number in range(40):
            share = quota.add("other", "alice")
            share.take(chance.choice([0, share.room()]))
            data = bytes(chance.choices(range(1, 256), k=chance.randint(1, 3000)))
            stream = chance.choice([OUT, ERR])

            # All of it is "written" before any of it is taken.
            os.write(moving.pipes[list(Stream).index(stream)], data)
            moving.written[stream] += data
            await rest()
            quota.remove("other")
            assert moving.spool(stream).end == len(moving.written[stream]), number

        await moving.end()

        assert len(moving.gaps()) > 2
        assert len(moving.gaps(ERR)) > 2

    asyncio.run(scenario())
    assert crash.looks > 100


def test_one_record_for_a_gap(tmp_path: Path) -> None:
    """A gap that goes on is one record, and few of the index."""

    async def scenario() -> None:
        moving = Moving(tmp_path / "job", limit=3, on_full=OnFull.DROP)

        for _ in range(300):
            await moving.write(b"ab")
            await moving.write(b"c", ERR)
            await rest()

        await moving.end()

        assert len(list(read_gaps(moving.directory.gaps))) == 2
        assert len(moving.records()) < 10

    asyncio.run(scenario())


def test_what_is_told(tmp_path: Path) -> None:
    """A gap is told before what comes after it, as far as growth is, and once."""

    async def scenario() -> None:
        quota = quota_of(owner=10)
        quota.add("other", "alice").take(6)
        moving = Moving(tmp_path / "job", quota=quota, on_full=OnFull.DROP)
        await moving.say(b"abcd")
        await moving.say(b"ef")
        await moving.write(b"gh")
        await until(lambda: moving.spool().end == 8)
        quota.remove("other")
        await moving.say(b"ij")
        await moving.end()

        gaps = Gaps(OUT)
        end = 0

        for message in moving.told:
            match message:
                case OutputDropped(job, stream, offset, stop):
                    assert (job, stream) == ("job", OUT)
                    assert end <= offset < stop
                    gaps.add(offset, stop)
                case OutputGrown(_, stdout, _):
                    assert stdout > end
                    end = stdout
                    last = gaps.find(end - 1)
                    assert last is None or last.stop <= end
                case _:
                    raise AssertionError(message)

        assert list(gaps.kept(0, 10)) == [(0, 4), (8, 10)]
        assert end == 10

    asyncio.run(scenario())


def test_two_gaps_while_nobody_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be told meanwhile is told later, each gap as one."""
    monkeypatch.setattr(Moving, "output_changed", lambda _: None)

    async def scenario() -> None:
        quota = quota_of(owner=4)
        quota.add("other", "alice").take(2)
        moving = Moving(tmp_path / "job", quota=quota, on_full=OnFull.DROP)

        for piece in (b"ab", b"c", b"d"):
            await moving.write(piece)
            await rest()

        quota.remove("other")

        for piece in (b"ef", b"g", b"h"):
            await moving.write(piece)
            await rest()

        await moving.end()

        assert list(moving.spools.news()) == [
            OutputDropped("job", OUT, 2, 4),
            OutputDropped("job", OUT, 6, 8),
            OutputGrown("job", 8, 0),
        ]
        assert list(moving.spools.news()) == []

    asyncio.run(scenario())


def test_gap_that_outruns_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is told of a gap beyond what the index says, until it does."""
    monkeypatch.setattr(Moving, "output_changed", lambda _: None)

    async def scenario() -> None:
        moving = Moving(tmp_path / "job", limit=2, on_full=OnFull.DROP)

        for piece in (b"abcd", b"ef", b"gh"):
            await moving.write(piece)
            await rest()

        first = list(moving.spools.news())
        await moving.end()

        assert first == [OutputDropped("job", OUT, 2, 4), OutputGrown("job", 4, 0)]
        assert list(moving.spools.news()) == [
            OutputDropped("job", OUT, 4, 8),
            OutputGrown("job", 8, 0),
        ]

    asyncio.run(scenario())


def test_news_for_a_new_listener(tmp_path: Path) -> None:
    """Who was told how things are hears only of what is new."""

    async def scenario() -> None:
        moving = Moving(tmp_path / "job", limit=2, on_full=OnFull.DROP)
        await moving.say(b"abcd")
        moving.told.clear()
        moving.spools.forget_news()
        assert list(moving.spools.news()) == []

        await moving.say(b"ef")

        assert moving.told == [
            OutputDropped("job", OUT, 4, 6),
            OutputGrown("job", 6, 0),
        ]

        await moving.end()

    asyncio.run(scenario())


def test_bytes_that_another_takes(tmp_path: Path) -> None:
    """A gap that was claimed too large is cut before anything is kept after it."""

    async def scenario() -> None:
        quota = quota_of(owner=3)
        quota.add("other", "alice").take(3)
        moving = Moving(tmp_path / "job", quota=quota, on_full=OnFull.DROP)
        spool = moving.spool()
        spool._in_pipe = lambda: 100  # type: ignore[method-assign]  # as if so many
        await moving.say(b"ab")
        assert moving.gaps() == [(0, 100)]

        quota.remove("other")
        await moving.say(b"cde")

        assert moving.gaps() == [(0, 2)]

        del spool._in_pipe
        await moving.end()

    asyncio.run(scenario())


def test_gap_file(tmp_path: Path) -> None:
    """The gaps of two streams grow each in its own record."""
    directory = JobDirectory(tmp_path / "job")
    directory.create()
    file = GapFile(directory)
    file.claim(OUT, 5, 7)
    file.claim(ERR, 0, 3)
    file.claim(OUT, 7, 9)
    file.claim(ERR, 3, 10)
    file.settle(ERR, 4)
    file.claim(ERR, 6, 8)
    file.settle(OUT, 9)
    file.close()

    assert list(read_gaps(directory.gaps)) == [
        Gap(OUT, 5, 9),
        Gap(ERR, 0, 4),
        Gap(ERR, 6, 8),
    ]
