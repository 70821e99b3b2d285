"""What must hold: a pure function from what happened to what is wrong with it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from tests.chaos.endings import (
    ends_are_right,
    states_go_forward,
    waiting_is_for_the_end,
)
from tests.chaos.evidence import Case, Evidence
from tests.chaos.history import (
    Entry,
    List,
    Listed,
    Output,
    Refused,
    Remove,
    Result,
    Run,
    Truth,
    Unknown,
)
from tests.chaos.readings import order_is_one, output_is_exact, readers_end_well


def check(history: Sequence[Entry], truth: Truth) -> list[str]:
    """Return what is wrong with *history*, a sentence for each violation."""
    evidence = Evidence(history, truth)
    return [sentence for rule in RULES for sentence in rule(evidence)]


def runs_at_most_once(evidence: Evidence) -> Iterator[str]:
    """A request runs at most once, under one ID, and not if it was refused."""
    starts = evidence.truth.starts

    for case in evidence:
        count = starts.count(case.request_id)

        if count > 1:
            yield f"{case} was started {count} times"

        if len(case.ids) > 1:
            yield f"{case} has several IDs: {', '.join(sorted(case.ids))}"

        if case.acknowledged is not None and not count and not case.may_be_stopped:
            yield f"{case} was said to run and never did"

        if count and _was_refused(case):
            yield f"{case} was refused and runs all the same"

    asked = {case.request_id for case in evidence}

    for request_id in sorted(set(starts) - asked):
        yield f"request {request_id} was started and nobody asked for it"


def owners_are_apart(evidence: Evidence) -> Iterator[str]:
    """Nobody sees, reads, stops or removes what belongs to somebody else."""
    for entry in evidence.trespasses:
        if not _is_rebuffed(entry.result):
            yield (
                f"{entry.client} ({entry.owner}) was let: {entry.action},"
                f" {entry.result}"
            )

    for entry, status in evidence.strays:
        yield (
            f"{entry.client} ({entry.owner}) was told of job {status.id} of"
            f" {status.owner}, {status.command!r}, which {entry.owner} never started"
        )


def nothing_is_forgotten(evidence: Evidence) -> Iterator[str]:
    """A job that was acknowledged is listed until it is removed, and not after."""
    for entry in evidence.history:
        if not isinstance(entry.result, Listed) or not isinstance(entry.action, List):
            continue

        listed = {status.id for status in entry.result.statuses}

        for case in evidence:
            if case.owner == entry.owner:
                yield from _check_listed(case, entry, listed)


def nothing_is_left(evidence: Evidence) -> Iterator[str]:
    """A job begins in a clean environment, and leaves no process behind."""
    for case in evidence:
        if case.request_id in evidence.truth.unclean:
            yield f"{case} was given the daemon's LD_PRELOAD"

        if case.request_id in evidence.truth.alive:
            yield f"{case} is over, and a process that it started runs"


RULES: Final[tuple[Callable[[Evidence], Iterator[str]], ...]] = (
    runs_at_most_once,
    output_is_exact,
    order_is_one,
    readers_end_well,
    ends_are_right,
    states_go_forward,
    waiting_is_for_the_end,
    owners_are_apart,
    nothing_is_forgotten,
    nothing_is_left,
)


def _is_rebuffed(result: Result) -> bool:
    match result:
        case Output(error=None):
            return not result.is_complete and not result.order
        case Output(error=error):
            return not result.order and error is not None and _is_rebuffed(error)
        case Refused(code):
            return code in {"job_not_found", "unavailable"}
        case other:
            return isinstance(other, Unknown)


def _was_refused(case: Case) -> bool:
    results = [entry.result for entry in case.entries if isinstance(entry.action, Run)]
    return all(isinstance(result, Refused) for result in results)


def _check_listed(case: Case, entry: Entry, listed: set[str]) -> Iterator[str]:
    is_there = bool(case.ids & listed)
    removed = [
        other.ended
        for other in case.entries
        if isinstance(other.action, Remove) and not isinstance(other.result, Refused)
    ]
    done = [time for time in removed if time < entry.began]

    if is_there and done and not _removal_is_unknown(case):
        yield f"{case} was removed at {done[0]:.2f} s and is listed after"

    if is_there or case.acknowledged is None or case.acknowledged >= entry.began:
        return

    if case.removal is None or case.removal > entry.ended:
        yield (
            f"{case} is known since {case.acknowledged:.2f} s, and is not"
            f" listed at {entry.ended:.2f} s"
        )


def _removal_is_unknown(case: Case) -> bool:
    return any(
        isinstance(entry.action, Remove) and isinstance(entry.result, Unknown)
        for entry in case.entries
    )
