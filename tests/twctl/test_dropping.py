"""What people are told of output that was dropped."""

import asyncio

import pytest

from teleworkerd.protocol.types import Chunk, Gap, Stream
from tests.twctl.calling import Capture
from twctl.commands import dropping
from twctl.commands.dropping import GapNotices
from twctl.render import print_notice


def err(capture: Capture) -> list[str]:
    """Return the notices so far, without what is the same in all."""
    return [
        line.removeprefix("twctl: job ID: ").removesuffix(
            ": no more output could be kept"
        )
        for line in capture.readouterr().err.splitlines()
    ]


async def test_gap_in_parts(capsys: Capture) -> None:
    """A gap is told once its end is known, as one."""
    notices = GapNotices("ID")

    notices.see(Gap(Stream.STDOUT, 5, 10))
    notices.see(Chunk(Stream.STDERR, 0, b"x"))
    notices.see(Gap(Stream.STDOUT, 10, 1000))
    assert err(capsys) == []
    notices.see(Chunk(Stream.STDOUT, 1000, b"x"))

    assert err(capsys) == ["995 bytes of stdout (from 5 up to 1000) were dropped"]
    notices.close()
    assert err(capsys) == []


async def test_two_gaps(capsys: Capture) -> None:
    """Gaps of two streams, or apart from each other, are two."""
    notices = GapNotices("ID")

    notices.see(Gap(Stream.STDOUT, 5, 10))
    notices.see(Gap(Stream.STDERR, 0, 1))
    notices.see(Gap(Stream.STDOUT, 20, 30))
    notices.close()

    assert err(capsys) == [
        "5 bytes of stdout (from 5 up to 10) were dropped",
        "10 bytes of stdout (from 20 up to 30) were dropped",
        "1 bytes of stderr (from 0 up to 1) were dropped",
    ]


async def test_gap_that_goes_on(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a gap grows, its begin is told soon and once, its size at the end."""
    monkeypatch.setattr(dropping, "PATIENCE", 0.01)
    told = asyncio.Event()

    def notice(text: str) -> None:
        print_notice(text)
        told.set()

    monkeypatch.setattr(dropping, "print_notice", notice)
    notices = GapNotices("ID")

    notices.see(Gap(Stream.STDOUT, 5, 10))
    await told.wait()
    notices.see(Gap(Stream.STDOUT, 10, 20))
    notices.close()

    assert err(capsys) == [
        "stdout is being dropped from byte 5 on",
        "15 bytes of stdout (from 5 up to 20) were dropped",
    ]
