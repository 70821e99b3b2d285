"""The history by job: all that was asked for and said of each number."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from teleworkerd.protocol.status import JobStatus, StreamStatus
from teleworkerd.protocol.types import Gap, JobState, Stream
from tests.chaos.history import (
    Entry,
    Kill,
    List,
    Listed,
    Output,
    Read,
    Remove,
    Run,
    Seen,
    Started,
    Stop,
    Strike,
    Truth,
)
from tests.chaos.job import Script, output, script


@dataclass(frozen=True, slots=True)
class Sight:
    """A status that somebody was told between *began* and *ended*."""

    began: float
    ended: float
    client: str
    status: JobStatus


@dataclass
class Case:
    """All that is known of the job with one number; asked once that is complete."""

    number: int
    owner: str
    request_id: str
    entries: list[Entry] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)

    def __str__(self) -> str:
        return f"job {self.number} ({self.request_id}) of {self.owner}"

    @property
    def script(self) -> Script:
        """What it was to do."""
        return script(self.number)

    @cached_property
    def ids(self) -> set[str]:
        """The IDs under which it was said to run, or to have run."""
        acknowledged = {
            entry.result.job
            for entry in self.entries
            if isinstance(entry.result, Started)
        }
        seen = {
            sight.status.id
            for sight in self.sights
            if sight.status.started_at is not None
        }
        return acknowledged | seen

    @cached_property
    def acknowledged(self) -> float | None:
        """When it was first said to run, if it was."""
        times = [
            entry.ended for entry in self.entries if isinstance(entry.result, Started)
        ]
        return min(times, default=None)

    @cached_property
    def may_be_stopped(self) -> bool:
        """Whether somebody tried to end it; an attempt that failed counts too."""
        return any(isinstance(entry.action, Kill | Stop) for entry in self.entries)

    @cached_property
    def removal(self) -> float | None:
        """When it was first asked to be removed, if it was."""
        times = [
            entry.began for entry in self.entries if isinstance(entry.action, Remove)
        ]
        return min(times, default=None)

    @cached_property
    def final(self) -> JobStatus | None:
        """The first end state that was told, of what ran if anything did."""
        ends = [sight.status for sight in self.sights if sight.status.state.is_final]
        ends.sort(key=lambda status: status.state is JobState.FAILED)
        return ends[0] if ends else None

    @cached_property
    def over(self) -> float:
        """When it was first told that it has ended, or never."""
        times = (sight.ended for sight in self.sights if sight.status.state.is_final)
        return min(times, default=math.inf)

    def gaps(self, stream: Stream) -> tuple[Gap, ...] | None:
        """Return what the first was told of dropped bytes who read it all.

        None when nobody has.
        """
        for entry in self.entries:
            match entry:
                case Entry(
                    began=began,
                    action=Read(streams=streams, offset=0, follow=follow),
                    result=Output(is_complete=True) as output,
                ) if stream in streams and (follow or began > self.over):
                    return output.gaps_in(stream)
                case _:
                    pass

        return None


class Evidence:
    """Everything, by number.

    `strays` are statuses of jobs that the owner never asked for, `trespasses` what
    others asked of a job.
    """

    def __init__(self, history: Sequence[Entry], truth: Truth) -> None:
        self.history = history
        self.truth = truth
        self.strays: list[tuple[Entry, JobStatus]] = []
        self.trespasses: list[Entry] = []
        self._cases: dict[int, Case] = {}

        for entry in history:
            if isinstance(entry.action, Run):
                case = Case(entry.action.number, entry.owner, entry.action.request_id)
                self._cases.setdefault(case.number, case).entries.append(entry)

        for entry in history:
            self._sort_in(entry)

        for case in self:
            case.sights.sort(key=lambda sight: sight.ended)

    def __iter__(self) -> Iterator[Case]:
        return iter(self._cases.values())

    def _sort_in(self, entry: Entry) -> None:
        if isinstance(entry.action, Run | Strike):
            return

        if not isinstance(entry.action, List):
            case = self._cases[entry.action.number]

            if entry.owner != case.owner:
                self.trespasses.append(entry)
                return

            case.entries.append(entry)

        for status in statuses_of(entry):
            self._see(entry, status)

    def _see(self, entry: Entry, status: JobStatus) -> None:
        case = self._cases.get(number_of(status))

        if case is None or {entry.owner, status.owner} != {case.owner}:
            self.strays.append((entry, status))
        else:
            sight = Sight(entry.began, entry.ended, entry.client, status)
            case.sights.append(sight)


def statuses_of(entry: Entry) -> tuple[JobStatus, ...]:
    """Return the statuses that *entry* tells."""
    match entry.result:
        case Seen(status):
            return (status,)
        case Listed(statuses):
            return statuses
        case _:
            return ()


def number_of(status: JobStatus) -> int:
    """Return the number that the command of a job has, or -1."""
    try:
        return int(status.command[-2])
    except (IndexError, ValueError):
        return -1


@lru_cache(4)
def expected(number: int, stream: Stream) -> bytes:
    """Return what a job writes to *stream*, and a little more than it ever does."""
    return output(number, stream, script(number).size(stream) + 4096)


def kept(data: bytes, gaps: Sequence[Gap], start: int, stop: int) -> bytes:
    """Return what there is of *data* from *start* up to *stop*, without *gaps*."""
    parts = []

    for gap in gaps:
        parts.append(data[start : gap.offset])
        start = gap.stop

    return b"".join([*parts, data[start:stop]])


def stream_status(status: JobStatus, stream: Stream) -> StreamStatus:
    """Return what *status* says of *stream*."""
    return status.stdout if stream is Stream.STDOUT else status.stderr
