"""Each rule of the checker finds the history that breaks it, and no other."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import pytest

from teleworkerd.protocol.status import StreamStatus
from teleworkerd.protocol.types import Gap, JobState
from tests.chaos.evidence import expected
from tests.chaos.forged import (
    ASKED_AGAIN,
    ERR,
    GOOD,
    HELD_UP,
    KILLED,
    NUMBER,
    OUT,
    PART,
    REFUSED,
    REMOVED,
    REQUEST,
    TODO,
    Told,
    ended,
    held_up,
    killed,
    output,
    status,
    stream_status,
    with_gap,
)
from tests.chaos.history import (
    Crashed,
    Done,
    Exited,
    List,
    Listed,
    Look,
    Output,
    Read,
    Refused,
    Run,
    Seen,
    Unknown,
    Wait,
)


@pytest.mark.parametrize(
    "history",
    [GOOD, KILLED, HELD_UP, REMOVED, REFUSED, ASKED_AGAIN],
    ids=["good", "killed", "held up", "removed", "refused", "asked again"],
)
def test_nothing_is_wrong(history: Told) -> None:
    """What a daemon does that works is right."""
    assert history.check() == []


def wrong_byte() -> Output:
    """Return all that was read, with one byte that is another."""
    data = bytearray(expected(NUMBER, OUT)[: TODO.stdout])
    data[50] ^= 1
    return output(stdout=bytes(data))


def shifted() -> Output:
    """Return what was read by one to whom ten bytes came twice."""
    data = expected(NUMBER, OUT)[: TODO.stdout]
    return output(stdout=data[:30] + data[20:])


OTHER: Final = status(JobState.RUNNING, id="id-2")
STOPPED: Final = status(JobState.STOPPING)

BROKEN: Final[dict[str, tuple[Told, Sequence[str]]]] = {
    "ran twice": (GOOD.noted(starts=(REQUEST, REQUEST)), ["started 2 times"]),
    "never ran": (
        ASKED_AGAIN.noted(starts=(), ends=frozenset()).but(Look, Done()),
        ["said to run and never did"],
    ),
    "refused and ran": (
        REFUSED.noted(starts=(REQUEST,)),
        ["was refused and runs", "ran and is said to have failed"],
    ),
    "nobody asked": (GOOD.noted(starts=(REQUEST, "other")), ["request other"]),
    "two jobs": (
        ASKED_AGAIN.but(Look, Done()).then(List(), Listed((OTHER,))),
        ["several IDs"],
    ),
    "wrong byte": (
        GOOD.but(Read, wrong_byte()),
        [f"of {TODO.stdout} bytes 50 are right"],
    ),
    "bytes twice": (
        GOOD.but(Read, shifted()),
        ["belong to offset 20", "read stdout up to"],
    ),
    "too few bytes": (
        GOOD.but(Read, output(60)),
        ["read stdout up to 60", "in 2 orders"],
    ),
    "too many bytes": (
        GOOD.but(Read, output(TODO.stdout + 1)),
        [f"up to {TODO.stdout + 1}, and it ends at {TODO.stdout}", "in 2 orders"],
    ),
    "too few bytes at the end": (
        GOOD.but(Read, output(0, 3), at=4),
        ["read stderr up to 3, and it ends at"],
    ),
    "waited too little": (
        GOOD.but(Wait, Seen(status(JobState.RUNNING, stdout=StreamStatus(end=9)))),
        ["was waited for by alice-0, and is running"],
    ),
    "wrong byte of one who left": (
        GOOD.but(Read, replace(wrong_byte(), is_complete=False)),
        [f"of {TODO.stdout} bytes 50 are right"],
    ),
    "killed, not the same for all": (
        KILLED.but(Read, output(PART - 1, PART)),
        [f"read stdout up to {PART - 1}, and it ends at {PART}", "in 2 orders"],
    ),
    "killed, one more than there is at the end": (
        KILLED.but(Read, output(PART, PART + 1)),
        [f"read stderr up to {PART + 1}, and it ends at {PART}", "in 2 orders"],
    ),
    "other order": (
        GOOD.but(Read, output(order=((ERR, TODO.stderr), (OUT, TODO.stdout)))),
        ["in 2 orders"],
    ),
    "reader fails": (
        GOOD.but(Read, output(3, 3, is_complete=False, error=Unknown("gave up"))),
        ["ended with Unknown"],
    ),
    "wait is refused": (
        GOOD.but(Wait, Refused("job_not_found", "no such job")),
        ["ended with Refused"],
    ),
    "library raises": (GOOD.but(Look, Crashed("ValueError")), ["with Crashed"]),
    "run raises": (GOOD.then(Run(NUMBER, REQUEST), Crashed("KeyError")), ["Crashed"]),
    "exit code": (
        ASKED_AGAIN.but(Look, Seen(ended(exit_code=TODO.exit_code + 1))),
        [f"said to have with {TODO.exit_code + 1}"],
    ),
    "exit code of twctl": (GOOD.but(Wait, Exited(101), at=1), ["and twctl with"]),
    "stopped by nobody": (
        ASKED_AGAIN.but(Look, Seen(killed())),
        ["was not stopped, and is stopped"],
    ),
    "lost": (
        ASKED_AGAIN.but(Look, Seen(status(JobState.LOST, lost="gone"))),
        ["is lost: gone"],
    ),
    "ended before its end": (
        ASKED_AGAIN.noted(ends=frozenset()),
        ["said to have ended by itself"],
    ),
    "cut short": (
        ASKED_AGAIN.but(Look, Seen(ended(stdout=stream_status(OUT, 9)))),
        ["and 9 are kept"],
    ),
    "truncated": (
        ASKED_AGAIN.but(Look, Seen(ended(truncated=True))),
        ["end of its pipes"],
    ),
    "dropped": (
        ASKED_AGAIN.but(
            Look,
            Seen(
                ended(
                    stderr=replace(
                        stream_status(ERR, 0), end=TODO.stderr, dropped=TODO.stderr
                    )
                )
            ),
        ).then(Read(NUMBER, (ERR,)), Output(gaps=(Gap(ERR, 0, TODO.stderr),))),
        [f"{TODO.stderr} bytes of stderr were dropped"],
    ),
    "other gaps": (
        HELD_UP.then(Read(NUMBER, (OUT,)), with_gap(41, 61)),
        ["told of other gaps in stdout"],
    ),
    "more was dropped than told": (
        HELD_UP.but(Look, Seen(held_up(dropped=21))),
        ["80 bytes of stdout are kept"],
    ),
    "wrong byte after a gap": (
        HELD_UP.but(Read, replace(with_gap(40, 60), stdout=bytes(80))),
        ["of 80 bytes 0 are right"],
    ),
    "digest": (
        ASKED_AGAIN.but(
            Look, Seen(ended(stdout=StreamStatus(end=TODO.stdout, sha256=bytes(32))))
        ),
        ["the SHA-256 of"],
    ),
    "no digest": (
        ASKED_AGAIN.but(Look, Seen(ended(stdout=StreamStatus(end=TODO.stdout)))),
        ["stdout has no SHA-256"],
    ),
    "state goes back": (
        KILLED.but(Read, Seen(STOPPED)).then(
            Look(NUMBER), Seen(status(JobState.RUNNING, stdout=StreamStatus(end=PART)))
        ),
        ["state 3 at", "bytes of stderr 100 at"],
    ),
    "size shrinks": (
        GOOD.but(List, Listed((status(JobState.RUNNING, stdout=StreamStatus(end=6)),))),
        ["bytes of stdout 7 at"],
    ),
    "two ends": (
        GOOD.but(List, Listed((ended(pid=7),)), at=1),
        ["two end states, at 9.50 and 10.50 s: pid None and 7"],
    ),
    "read by another": (
        GOOD.then(Read(NUMBER, (OUT,)), output(5, 0), owner="bob"),
        ["bob-0 (bob) was let: Read"],
    ),
    "seen by another": (GOOD.but(Look, Seen(ended()), at=2), ["bob-0 (bob) was let"]),
    "told to another that it is there": (
        GOOD.but(Look, Refused("job_not_ended", "it runs"), at=2),
        ["bob-0 (bob) was let"],
    ),
    "listed to another": (
        GOOD.then(List(), Listed((ended(),)), owner="bob"),
        ["which bob never started"],
    ),
    "not listed": (GOOD.but(List, Listed(()), at=1), ["is not listed"]),
    "listed after its removal": (
        REMOVED.then(List(), Listed((ended(),))),
        ["and is listed after"],
    ),
    "environment": (GOOD.noted(unclean=frozenset({REQUEST})), ["LD_PRELOAD"]),
    "left behind": (GOOD.noted(alive=frozenset({REQUEST})), ["a process that it"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_found(name: str) -> None:
    """Each thing that is wrong is told, and nothing beside it."""
    history, parts = BROKEN[name]

    found = history.check()

    assert len(found) == len(parts), found

    for part in parts:
        assert any(part in sentence for sentence in found), found
