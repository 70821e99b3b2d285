"""How far a copy has come."""

from teleworkerd.protocol.types import Chunk, Gap, Stream
from twctl.commands.replay import Replay


OUT, ERR = Stream


def test_one_stream() -> None:
    """What came before the first byte that is copied does not count."""
    replay = Replay([OUT])
    replay.see(Chunk(OUT, 100, b"x" * 50))
    replay.expect({OUT: 300})

    assert (replay.done, replay.total) == (50, 200)


def test_more_than_is_expected() -> None:
    """What is written meanwhile is not waited for."""
    replay = Replay([OUT])
    replay.see(Chunk(OUT, 0, b"x" * 50))
    replay.expect({OUT: 40})

    assert (replay.done, replay.total) == (40, 40)


def test_begun_after_the_end() -> None:
    """Who begins beyond what there was is at the end of it."""
    replay = Replay([OUT])
    replay.see(Chunk(OUT, 100, b"x"))
    replay.expect({OUT: 40})

    assert (replay.done, replay.total) == (0, 0)


def test_both_streams() -> None:
    """Those of both count, and what is missing as if it were there."""
    replay = Replay([OUT, ERR])
    replay.see(Gap(OUT, 0, 10))
    replay.see(Chunk(ERR, 5, b"x" * 5))
    replay.expect({OUT: 10, ERR: 15})

    assert (replay.done, replay.total) == (15, 20)


def test_before_the_first_byte() -> None:
    """Where it begins counts before anything has come, and what comes counts more."""
    replay = Replay([OUT, ERR])
    replay.expect({OUT: 100, ERR: 100})
    replay.begin({OUT: 60})
    before = replay.begun.is_set()
    replay.begin({ERR: 0})
    total = replay.total
    replay.see(Chunk(ERR, 50, b"x"))

    assert (before, replay.begun.is_set()) == (False, True)
    assert (total, replay.total) == (140, 90)
