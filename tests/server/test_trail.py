"""What the audit log hears of requests: each first one, and how often again."""

import pytest

from teleworkerd.execution import Caller
from teleworkerd.keeper.orders import Noted
from teleworkerd.protocol.errors import (
    LimitRejected,
    PermissionDenied,
    RequestError,
    TooMany,
)
from teleworkerd.server.trail import Trail
from tests.server.peers import until


def caller(name: str, port: int = 1) -> Caller:
    """Return who has *name*."""
    return Caller(name, "0a", f"127.0.0.1:{port}")


async def test_refused_with_other_words() -> None:
    """What a client makes up does not make another line of the same refusal."""
    notes: list[Noted] = []
    trail = Trail(notes.append)

    for number in range(3000):
        error = PermissionDenied(f"account a{number} is not granted to alice")
        trail.refused(caller("alice", number), "run", error)

    assert notes == [
        Noted(
            "run",
            "permission_denied",
            "account a0 is not granted to alice",
            by=caller("alice", 0),
        )
    ]
    trail.flush()
    assert notes[1:] == [
        Noted(
            "run",
            "permission_denied",
            "account a2999 is not granted to alice",
            by=caller("alice", 2999),
            count=2999,
        )
    ]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("bob", PermissionDenied("no")),
        ("alice", TooMany("no")),
        ("alice", LimitRejected("no")),
    ],
)
async def test_refused_otherwise(name: str, error: RequestError) -> None:
    """Another client, or another reason, is another line, and at once."""
    notes: list[Noted] = []
    trail = Trail(notes.append)
    trail.refused(caller("alice"), "run", PermissionDenied("no"))
    trail.refused(caller(name), "run", error)

    assert [(note.by, note.result) for note in notes] == [
        (caller("alice"), "permission_denied"),
        (caller(name), error.code),
    ]


async def test_told_after_the_period() -> None:
    """Nobody needs to come again for what was counted to be told."""
    notes: list[Noted] = []
    trail = Trail(notes.append, period=0.1)

    for _ in range(5):
        trail.tell(Noted("access", "ok", "see", by=caller("dash"), job="1"))

    await until(lambda: len(notes) > 1, what="the sum")
    assert [note.count for note in notes] == [1, 4]


async def test_nothing_is_left_out() -> None:
    """However much there is to tell in a minute, all of it is told, or counted."""
    notes: list[Noted] = []
    trail = Trail(notes.append)

    for number in range(25_000):
        for _ in range(1 + number % 2):
            trail.tell(Noted("access", "ok", "see", job=str(number)))

    trail.flush()
    assert len(notes) == 37_500
    assert sum(note.count for note in notes) == 37_500
