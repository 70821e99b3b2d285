"""What happened: who asked for what and was told what, and what the jobs noted."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import Gap, Stream
from tests.chaos.plan import Fault


NEMESIS: Final = "nemesis"
UNSAID: Final = "unsaid"  # the code of a refusal that `twctl` printed


@dataclass(frozen=True, slots=True)
class Run:
    """Start job *number*; the same request ID is always for the same number."""

    number: int
    request_id: str


@dataclass(frozen=True, slots=True)
class Read:
    """Read *streams* of a job from *offset* on; two are read interleaved.

    Without *follow* it is what there is now.
    """

    number: int
    streams: tuple[Stream, ...]
    offset: int = 0
    follow: bool = True


@dataclass(frozen=True, slots=True)
class Kill:
    """Send a signal."""

    number: int
    signal: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask a job to end, and end it after *grace* seconds."""

    number: int
    grace: float


@dataclass(frozen=True, slots=True)
class Look:
    """Ask for the status."""

    number: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for the end."""

    number: int


@dataclass(frozen=True, slots=True)
class List:
    """Ask for all jobs."""


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove a job that has ended."""

    number: int


@dataclass(frozen=True, slots=True)
class Strike:
    """Do what the plan has."""

    fault: Fault


Action = Run | Read | Kill | Stop | Look | Wait | List | Remove | Strike


@dataclass(frozen=True, slots=True)
class Started:
    """The job runs, or has run, under this ID."""

    job: str


@dataclass(frozen=True, slots=True)
class Seen:
    """The job is like this."""

    status: JobStatus


@dataclass(frozen=True, slots=True)
class Listed:
    """These are all jobs of the owner."""

    statuses: tuple[JobStatus, ...]


@dataclass(frozen=True, slots=True)
class Output:
    """What was read of each stream, in the order of the pieces (stream, size).

    `gaps` were told instead of bytes. `is_complete` says that the reader was told
    of the end, `error` what ended it instead; neither is there for one that left.
    """

    stdout: bytes = b""
    stderr: bytes = b""
    order: tuple[tuple[Stream, int], ...] = ()
    gaps: tuple[Gap, ...] = ()
    is_complete: bool = True
    error: "Failure | None" = None

    def of(self, stream: Stream) -> bytes:
        """Return what was read of *stream*."""
        return self.stdout if stream is Stream.STDOUT else self.stderr

    def gaps_in(self, stream: Stream) -> tuple[Gap, ...]:
        """Return the gaps of *stream*; what was told in parts is one."""
        joined: list[Gap] = []

        for gap in self.gaps:
            if gap.stream is stream:
                is_next = bool(joined) and joined[-1].stop == gap.offset
                start = joined.pop().offset if is_next else gap.offset
                joined.append(Gap(stream, start, gap.stop))

        return tuple(joined)


@dataclass(frozen=True, slots=True)
class Exited:
    """`twctl` ended with the code that it says is the job's."""

    code: int


@dataclass(frozen=True, slots=True)
class Done:
    """It was done."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The server answered with an error: nothing was done."""

    code: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody knows whether it was done."""

    sentence: str


@dataclass(frozen=True, slots=True)
class Crashed:
    """The library raised what it should not: its bug, or ours."""

    sentence: str


Failure = Refused | Unknown | Crashed

Result = Started | Seen | Listed | Output | Exited | Done | Failure


@dataclass(frozen=True, slots=True)
class Entry:
    """One action of a client, from its begin to its end, in seconds of the run."""

    began: float
    ended: float
    client: str
    owner: str
    action: Action
    result: Result


@dataclass(frozen=True, slots=True)
class Truth:
    """What the jobs noted themselves, by request ID, and what they left behind.

    `clean` says of each start whether its environment was; `alive` are those
    whose left-behind process still runs.
    """

    starts: tuple[str, ...] = ()
    ends: frozenset[str] = frozenset()
    unclean: frozenset[str] = frozenset()
    alive: frozenset[str] = frozenset()


@dataclass(slots=True)
class History:
    """Takes down what happens; equal bytes are kept once."""

    entries: list[Entry] = field(default_factory=list)
    _begin: float = field(default_factory=time.monotonic)
    _bytes: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def now(self) -> float:
        """Seconds since the begin."""
        return time.monotonic() - self._begin

    def keep(self, data: Iterable[bytes]) -> bytes:
        """Return the bytes of *data*, the same object for the same bytes."""
        whole = b"".join(data)
        return self._bytes.setdefault(whole, whole)

    def note(
        self, began: float, client: str, owner: str, action: Action, result: Result
    ) -> None:
        """Take down what has ended just now."""
        self.entries.append(Entry(began, self.now, client, owner, action, result))
