"""The checker's rules for those who read and wait."""

from collections.abc import Iterator
from signal import SIGKILL
from typing import Final

from teleworkerd.protocol.types import Stream
from tests.chaos.evidence import Case, Evidence, expected, kept, stream_status
from tests.chaos.history import (
    UNSAID,
    Crashed,
    Entry,
    Kill,
    Output,
    Read,
    Refused,
    Remove,
    Run,
    Unknown,
)


UNCONNECTED: Final = ("nothing listens there", "closed the connection during")
GONE: Final = frozenset({"job_not_found", "job_removed"})


def output_is_exact(evidence: Evidence) -> Iterator[str]:
    """Each reader gets what the job wrote, up to where the job ended."""
    for case in evidence:
        for entry in case.entries:
            if isinstance(entry.action, Read) and isinstance(entry.result, Output):
                yield from _check_read(case, entry, entry.action, entry.result)


def order_is_one(evidence: Evidence) -> Iterator[str]:
    """Who reads both streams interleaved gets them in the same order as others."""
    for case in evidence:
        orders = {
            _joined(entry.result.order): entry.client
            for entry in case.entries
            if isinstance(entry.result, Output)
            and isinstance(entry.action, Read)
            and entry.result.is_complete
            and entry.action.follow
            and len(entry.action.streams) > 1
        }

        if len(orders) > 1:
            readers = ", ".join(sorted(orders.values()))
            yield f"{case} was read in {len(orders)} orders, by {readers}"


def readers_end_well(evidence: Evidence) -> Iterator[str]:
    """Only its removal keeps a reader or whoever waits from the job's end."""
    for case in evidence:
        for entry in case.entries:
            result = entry.result
            error = result.error if isinstance(result, Output) else result

            if not isinstance(error, Refused | Unknown | Crashed):
                continue

            if not _is_excused(case, entry, error):
                yield (
                    f"{case}: {entry.action} of {entry.client} from"
                    f" {entry.began:.2f} to {entry.ended:.2f} s ended with {error}"
                )


def _check_read(case: Case, entry: Entry, read: Read, result: Output) -> Iterator[str]:
    for stream in read.streams:
        got, gaps = result.of(stream), result.gaps_in(stream)
        stop = read.offset + len(got) + sum(gap.stop - gap.offset for gap in gaps)
        wanted = kept(expected(case.number, stream), gaps, read.offset, stop)
        who = f"{case}: {entry.client} at {entry.ended:.2f} s"

        if got != wanted:
            where = _where(got, wanted, expected(case.number, stream))
            yield f"{who} read wrong bytes of {stream} from {read.offset} on, {where}"

        if case.final is None or not result.is_complete:
            continue

        end = stream_status(case.final, stream).end
        is_to_end = read.follow or entry.began > case.over

        if stop > end or (is_to_end and stop < end):
            yield f"{who} read {stream} up to {stop}, and it ends at {end}"

        if is_to_end and not read.offset and gaps != case.gaps(stream):
            yield f"{who} was told of other gaps in {stream}: {gaps}"


def _where(got: bytes, wanted: bytes, whole: bytes) -> str:
    pairs = enumerate(zip(got, wanted, strict=False))
    first = next((at for at, (one, other) in pairs if one != other), len(wanted))
    elsewhere = whole.find(got[first : first + 32])
    return (
        f"of {len(got)} bytes {first} are right; those after belong to offset"
        f" {elsewhere}"
    )


def _joined(order: tuple[tuple[Stream, int], ...]) -> tuple[tuple[Stream, int], ...]:
    joined: list[tuple[Stream, int]] = []

    for stream, size in order:
        is_same = joined and joined[-1][0] is stream
        before = joined.pop()[1] if is_same else 0
        joined.append((stream, before + size))

    return tuple(joined)


def _is_excused(case: Case, entry: Entry, error: Refused | Unknown | Crashed) -> bool:
    match entry.action, error:
        case _, Crashed():
            return False
        case Run() | Remove(), _:
            return True
        case Kill(signal=number), Unknown():
            return number != SIGKILL  # any other is sent at most once
        case _, Refused(code, sentence) if code == UNSAID:
            # Who has no connection yet, as a command line, is told so soon.
            return any(reason in sentence for reason in UNCONNECTED)
        case _, Refused(code):
            is_removed = case.removal is not None and entry.ended >= case.removal
            return is_removed and code in GONE
        case _:
            return False
