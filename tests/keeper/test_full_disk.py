"""A disk without room, and what a job may lose by it."""

import asyncio
import errno
import os
import random
from pathlib import Path
from typing import Any

import pytest

from teleworkerd.keeper.messages import OutputHeldUp
from teleworkerd.protocol.types import OnFull, Stream
from tests.keeper.moving import (
    DISK,
    PIPE,
    Moving,
    fill,
    no_room,
    small_disk,
    until,
)


OUT, ERR = Stream


def test_full_disk(tmp_path: Path) -> None:
    """A full disk is left alone for a while: few gaps, and all else is kept."""
    data = random.Random(1).randbytes(DISK)

    async def scenario(disk: Path) -> None:
        moving = Moving(disk / "job", on_full=OnFull.DROP)
        await moving.say(data[:4096])

        # There is a page for the records, but none for the bytes.
        moving.spools._gaps.claim(ERR, 0, 0)
        fill(disk / "ballast")
        await moving.write(data)
        await until(lambda: moving.spool().end == 4096 + DISK)

        assert moving.kept < DISK // 2
        assert len(moving.gaps()) == 1
        assert moving.held_up is None

        (disk / "ballast").unlink()
        moving.spool()._rest_until = 0
        await moving.say(b"again")
        await moving.end()

        assert moving.output().endswith(b"again")
        assert len(moving.gaps()) == 1

    with small_disk(tmp_path / "disk") as disk:
        asyncio.run(scenario(disk))


def test_rest_of_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two attempts at a full disk there is a second, whatever comes."""
    splice = os.splice
    tried: list[float] = []

    def full(source: int, target: int, count: int, **options: Any) -> int:
        if "offset_dst" in options:
            tried.append(asyncio.get_running_loop().time())
            no_room()

        return splice(source, target, count, **options)

    monkeypatch.setattr(os, "splice", full)

    async def scenario() -> None:
        moving = Moving(tmp_path / "job", on_full=OnFull.DROP)

        while len(tried) < 3:
            await moving.write(bytes(1000))
            await asyncio.sleep(0.01)

        moving.discard()

    asyncio.run(scenario())
    assert tried[1] - tried[0] >= 1
    assert tried[2] - tried[1] >= 1


def test_gap_on_a_full_disk(tmp_path: Path) -> None:
    """The first gaps have their room: a job that is to drop goes on at once."""

    async def scenario(disk: Path) -> None:
        moving = Moving(disk / "job", on_full=OnFull.DROP)
        fill(disk / "ballast")
        await moving.write(b"x" * 5 * PIPE)  # which a pipe alone would not take

        assert moving.held_up is None

        (disk / "ballast").unlink()
        await moving.end()

        assert moving.dropped
        assert moving.kept + moving.dropped == 5 * PIPE

    with small_disk(tmp_path / "disk") as disk:
        asyncio.run(scenario(disk))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("on_full", OnFull)
def test_ways_to_be_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_full: OnFull, number: int
) -> None:
    """A disk, a disk's quota and a file that are full are all the same."""
    splice = os.splice

    def full(source: int, target: int, count: int, **options: Any) -> int:
        if "offset_dst" in options:
            raise OSError(number, os.strerror(number))

        return splice(source, target, count, **options)

    async def scenario() -> None:
        moving = Moving(tmp_path / "job", on_full=on_full)

        with monkeypatch.context() as patch:
            patch.setattr(os, "splice", full)
            await moving.write(b"abc")
            await until(lambda: moving.held_up or moving.is_quiet())

        if on_full is OnFull.BLOCK:
            assert moving.held_up is not None
            await until(lambda: moving.held_up is None)

        await moving.end()

        assert (moving.kept, moving.dropped) in ((3, 0), (0, 3))
        assert (moving.kept == 3) is (on_full is OnFull.BLOCK)
        assert bool(moving.exceeded) is (on_full is OnFull.KILL)

    asyncio.run(scenario())


def test_fault_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that is no lack of room loses nothing: what is held up is told."""

    def broken(*_: object, **__: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def scenario() -> None:
        moving = Moving(tmp_path / "job", on_full=OnFull.DROP)

        with monkeypatch.context() as patch:
            patch.setattr(os, "splice", broken)
            await moving.write(b"abc")
            await until(lambda: moving.held_up)

        assert moving.told == [
            OutputHeldUp("job", "output cannot be kept now: Input/output error")
        ]

        await until(moving.is_quiet)
        await moving.end()

        assert moving.kept == 3

    asyncio.run(scenario())
