"""The checker's rules for states, and for how jobs end."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Final

from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import JobState, Reason, Stream
from tests.chaos.evidence import Case, Evidence, Sight, expected, kept, stream_status
from tests.chaos.history import Exited, Seen, Truth, Wait


RANK: Final = {
    JobState.STARTING: 0,
    JobState.RUNNING: 1,
    JobState.STOPPING: 2,
    JobState.FINISHED: 3,
    JobState.STOPPED: 3,
    JobState.FAILED: 3,
    JobState.LOST: 3,
}
MEASURES: Final[Mapping[str, Callable[[JobStatus], int]]] = {
    "state": lambda status: RANK[status.state],
    "bytes of stdout": lambda status: status.stdout.end,
    "bytes of stderr": lambda status: status.stderr.end,
}


def ends_are_right(evidence: Evidence) -> Iterator[str]:
    """Who is not stopped ends as it meant to, with all its output, and digests."""
    for case in evidence:
        if (status := case.final) is not None:
            yield from _check_end(case, status, evidence.truth)

        codes = {
            entry.result.code
            for entry in case.entries
            if isinstance(entry.result, Exited)
        }

        if not case.may_be_stopped and codes - {case.script.exit_code}:
            yield (
                f"{case} ends with {case.script.exit_code},"
                f" and twctl with {sorted(codes)}"
            )


def waiting_is_for_the_end(evidence: Evidence) -> Iterator[str]:
    """Who waits is told of the job's end, and not before."""
    for case in evidence:
        for entry in case.entries:
            if isinstance(entry.action, Wait) and isinstance(entry.result, Seen):
                state = entry.result.status.state

                if not state.is_final:
                    yield f"{case} was waited for by {entry.client}, and is {state}"


def states_go_forward(evidence: Evidence) -> Iterator[str]:
    """No state goes back, no size shrinks, and an end state never changes."""
    for case in evidence:
        for job in sorted({sight.status.id for sight in case.sights}):
            sights = [sight for sight in case.sights if sight.status.id == job]
            yield from _check_finals(case, sights)
            yield from _check_progress(case, sights)


def _check_end(case: Case, status: JobStatus, truth: Truth) -> Iterator[str]:
    if status.state is JobState.FAILED:
        if case.request_id in truth.starts:
            yield f"{case} ran and is said to have failed: {status.error}"

        return

    if status.state is JobState.LOST:
        yield f"{case} is lost: {status.lost}"
        return

    by_itself = status.state is JobState.FINISHED and status.reason is Reason.EXITED

    if not case.may_be_stopped and not by_itself:
        yield (
            f"{case} was not stopped, and is {status.state}, {status.reason},"
            f" exit code {status.exit_code}"
        )

    if by_itself:
        if status.exit_code != case.script.exit_code:
            yield (
                f"{case} ended with {case.script.exit_code}, and is said to"
                f" have with {status.exit_code}"
            )

        if case.request_id not in truth.ends:
            yield f"{case} is said to have ended by itself, which it did not"

        if status.truncated:
            yield f"{case} was not read to the end of its pipes"

    for stream in Stream:
        yield from _check_stream(case, status, stream, is_whole=by_itself)


def _check_stream(
    case: Case, status: JobStatus, stream: Stream, *, is_whole: bool
) -> Iterator[str]:
    known = stream_status(status, stream)
    size = case.script.size(stream)

    if known.end > size or (is_whole and known.end < size):
        yield f"{case} wrote {size} bytes of {stream}, and {known.end} are kept"

    # Who ends a job does not wait for a full disk to have room for its last bytes.
    if known.dropped and not case.may_be_stopped:
        yield f"{case}: {known.dropped} bytes of {stream} were dropped"

    if known.sha256 is None:
        if status.started_at is not None:
            yield f"{case} has ended, and {stream} has no SHA-256"

        return

    gaps = case.gaps(stream)

    if gaps is None and known.dropped:
        return  # nobody knows which

    data = kept(expected(case.number, stream), gaps or (), 0, known.end)

    if known.sha256 != hashlib.sha256(data).digest():
        yield f"{case}: the SHA-256 of {len(data)} bytes of {stream} is wrong"
    elif known.end - known.dropped != len(data):
        yield f"{case}: {len(data)} bytes of {stream} are kept, said are {known}"


def _check_finals(case: Case, sights: Sequence[Sight]) -> Iterator[str]:
    finals = [sight for sight in sights if sight.status.state.is_final]

    for first, other in pairwise(finals):
        if first.status != other.status:
            yield (
                f"{case} has two end states, at {first.ended:.2f} and"
                f" {other.ended:.2f} s: {_difference(first.status, other.status)}"
            )


def _check_progress(case: Case, sights: Sequence[Sight]) -> Iterator[str]:
    """Compare each sight with the furthest of those that were over before it began."""
    over = deque(sorted(sights, key=lambda sight: sight.ended))
    furthest: dict[str, Sight] = {}
    told: set[str] = set()

    for sight in sorted(sights, key=lambda sight: sight.began):
        while over and over[0].ended < sight.began:
            earlier = over.popleft()

            for what, measure in MEASURES.items():
                known = furthest.setdefault(what, earlier)

                if measure(earlier.status) > measure(known.status):
                    furthest[what] = earlier

        for what, earlier in furthest.items():
            measure = MEASURES[what]

            if what not in told and measure(sight.status) < measure(earlier.status):
                told.add(what)  # all that follow will be so too
                yield (
                    f"{case} went back: {what} {measure(earlier.status)} at"
                    f" {earlier.ended:.2f} s and {measure(sight.status)} at"
                    f" {sight.began:.2f} s"
                )


def _difference(one: JobStatus, other: JobStatus) -> str:
    return "; ".join(
        f"{item.name} {getattr(one, item.name)} and {getattr(other, item.name)}"
        for item in fields(JobStatus)
        if getattr(one, item.name) != getattr(other, item.name)
    )
