"""Histories as they could have been, for the tests of the checker."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Final

from teleworkerd.protocol.spec import Limits
from teleworkerd.protocol.status import JobStatus, StreamStatus
from teleworkerd.protocol.types import Gap, JobState, Reason, Stream
from tests.chaos.checker import check
from tests.chaos.evidence import expected
from tests.chaos.history import (
    Action,
    Done,
    Entry,
    Exited,
    Kill,
    List,
    Listed,
    Look,
    Output,
    Read,
    Refused,
    Remove,
    Result,
    Run,
    Seen,
    Started,
    Truth,
    Unknown,
    Wait,
)
from tests.chaos.job import script


NUMBER: Final = 1
TODO: Final = script(NUMBER)
REQUEST: Final = "request-1"
OUT, ERR = Stream
BOTH: Final = (OUT, ERR)
PART: Final = 100  # bytes; what a job wrote that was killed


@dataclass(frozen=True, slots=True)
class Told:
    """A history and what the jobs noted."""

    history: tuple[Entry, ...]
    truth: Truth

    def check(self) -> list[str]:
        """Return what the checker finds."""
        return check(self.history, self.truth)

    def but(self, action: type[Action], result: Result, *, at: int = 0) -> "Told":
        """Return the same with another result of the *at*th such action."""
        places = [
            place
            for place, entry in enumerate(self.history)
            if isinstance(entry.action, action)
        ]
        history = list(self.history)
        history[places[at]] = replace(history[places[at]], result=result)
        return replace(self, history=tuple(history))

    def then(self, action: Action, result: Result, *, owner: str = "alice") -> "Told":
        """Return the same with one action more at the end."""
        more = entry(len(self.history), action, result, owner=owner)
        return replace(self, history=(*self.history, more))

    def noted(self, **changes: Any) -> "Told":
        """Return the same with another truth."""
        return replace(self, truth=replace(self.truth, **changes))


def entry(at: int, action: Action, result: Result, *, owner: str = "alice") -> Entry:
    """Return what happened in the second *at*."""
    return Entry(at, at + 0.5, f"{owner}-0", owner, action, result)


def told(*steps: tuple[Action, Result]) -> Told:
    """Return what happened one after the other, of one job that came to its end."""
    history = tuple(entry(at, *step) for at, step in enumerate(steps))
    return Told(history, Truth(starts=(REQUEST,), ends=frozenset({REQUEST})))


def status(state: JobState, **changes: Any) -> JobStatus:
    """Return a status of the job."""
    usual = JobStatus(
        id="id-1",
        owner="alice",
        command=(b"python3", b"job.py", b"%d" % NUMBER, REQUEST.encode()),
        state=state,
        created_at=1,
        limits=Limits(),
        started_at=2,
    )
    return replace(usual, **changes)


def stream_status(stream: Stream, size: int) -> StreamStatus:
    """Return what a status says at the end of a stream that has *size* bytes."""
    digest = hashlib.sha256(expected(NUMBER, stream)[:size]).digest()
    return StreamStatus(end=size, sha256=digest)


def ended(**changes: Any) -> JobStatus:
    """Return the status of the job at its end."""
    usual = status(
        JobState.FINISHED,
        exit_code=TODO.exit_code,
        reason=Reason.EXITED,
        stdout=stream_status(OUT, TODO.stdout),
        stderr=stream_status(ERR, TODO.stderr),
    )
    return replace(usual, **changes)


def killed() -> JobStatus:
    """Return the status of the job at its end, when it was killed."""
    return ended(
        state=JobState.STOPPED,
        exit_code=137,
        signal=9,
        reason=Reason.KILLED,
        stdout=stream_status(OUT, PART),
        stderr=stream_status(ERR, PART),
    )


def output(out: int | None = None, err: int | None = None, **changes: Any) -> Output:
    """Return what a reader has who read so many bytes, or all."""
    sizes = (TODO.stdout if out is None else out, TODO.stderr if err is None else err)
    usual = Output(
        expected(NUMBER, OUT)[: sizes[0]],
        expected(NUMBER, ERR)[: sizes[1]],
        ((OUT, 10), (OUT, sizes[0] - 10), (ERR, sizes[1])),
    )
    return replace(usual, **changes)


def with_gap(start: int, stop: int) -> Output:
    """Return what a reader has of a killed job with a gap; it was told in two parts."""
    data = expected(NUMBER, OUT)
    gaps = (Gap(OUT, start, start + 5), Gap(OUT, start + 5, stop))
    return Output(data[:start] + data[stop:PART], gaps=gaps)


def held_up(*, dropped: int) -> JobStatus:
    """Return the end of a job that was killed while the disk was full."""
    data = expected(NUMBER, OUT)
    digest = hashlib.sha256(data[:40] + data[60:PART]).digest()
    return replace(killed(), stdout=StreamStatus(0, PART, digest, dropped))


GOOD: Final = told(
    (Run(NUMBER, REQUEST), Started("id-1")),
    (Look(NUMBER), Seen(status(JobState.RUNNING, stdout=StreamStatus(end=7)))),
    (List(), Listed((status(JobState.RUNNING, stdout=StreamStatus(end=9)),))),
    (Read(NUMBER, BOTH), output()),
    (Read(NUMBER, BOTH), output(order=((OUT, TODO.stdout), (ERR, TODO.stderr)))),
    (Read(NUMBER, (OUT,), 5), Output(stdout=expected(NUMBER, OUT)[5 : TODO.stdout])),
    (Read(NUMBER, BOTH), output(20, 7, is_complete=False)),
    (Wait(NUMBER), Seen(ended())),
    (Wait(NUMBER), Exited(TODO.exit_code)),
    (Look(NUMBER), Seen(ended())),
    (List(), Listed((ended(),))),
    (Read(NUMBER, (ERR,), follow=False), output(0)),
).then(Look(NUMBER), Refused("job_not_found", "no such job"), owner="bob")

KILLED: Final = told(
    (Run(NUMBER, REQUEST), Started("id-1")),
    (Read(NUMBER, BOTH), output(PART, PART)),
    (Kill(NUMBER, 9), Done()),
    (Read(NUMBER, BOTH), output(PART, PART)),
    (Look(NUMBER), Seen(killed())),
).noted(ends=frozenset())

HELD_UP: Final = told(
    (Run(NUMBER, REQUEST), Started("id-1")),
    (Kill(NUMBER, 9), Done()),
    (Look(NUMBER), Seen(held_up(dropped=20))),
    (Read(NUMBER, (OUT,)), with_gap(40, 60)),
    (Read(NUMBER, (OUT,)), replace(with_gap(40, 60), gaps=(Gap(OUT, 40, 60),))),
)

REMOVED: Final = (
    GOOD.then(Remove(NUMBER), Done())
    .then(List(), Listed(()))
    .then(Look(NUMBER), Refused("job_not_found", "no such job"))
)

REFUSED: Final = told(
    (Run(NUMBER, REQUEST), Refused("no_space", "the disk is full")),
    (List(), Listed((status(JobState.FAILED, started_at=None, id="id-0"),))),
    (List(), Listed(())),
).noted(starts=(), ends=frozenset())

# The first answer was lost with its connection, the second had it again.
ASKED_AGAIN: Final = told(
    (Run(NUMBER, REQUEST), Unknown("the connection was lost")),
    (Run(NUMBER, REQUEST), Started("id-1")),
    (Look(NUMBER), Seen(ended())),
)
