"""The words and bounds that both sides use: streams, states, reasons, chunks."""

from enum import StrEnum
from typing import Annotated, Final

from teleworkerd.protocol.records import record


MIB: Final = 1 << 20

MAX_ARGUMENT: Final = 128 * 1024 - 1  # the kernel's MAX_ARG_STRLEN, less its NUL
MAX_OFFSET: Final = (1 << 63) - 1


@record
class AtMost:
    """A bound on the wire: a length for text, bytes and lists."""

    length: int


@record
class Between:
    """A bound on the wire: the least and the greatest number."""

    least: int
    most: int


Text = Annotated[str, AtMost(4096)]
Word = Annotated[str, AtMost(255)]
Bytes = Annotated[bytes, AtMost(MAX_ARGUMENT)]
Offset = Annotated[int, Between(0, MAX_OFFSET)]
Nanoseconds = Annotated[int, Between(0, (1 << 63) - 1)]  # since the epoch, UTC


class Stream(StrEnum):
    """One of a job's two outputs."""

    STDOUT = "stdout"
    STDERR = "stderr"


class OnFull(StrEnum):
    """What happens to a job's output when a limit on it is reached."""

    BLOCK = "block"  # nothing is taken until there is room: the job waits
    DROP = "drop"  # it is thrown away, and readers are told of the gap
    KILL = "kill"  # the job is ended


@record
class Chunk:
    """A run of output bytes and the offset of the first in its stream.

    `times` are pairs, one after the other: an offset in the stream, and when the
    bytes from there on came (`Nanoseconds`). They are there if asked for.
    """

    stream: Stream
    offset: int
    data: bytes
    times: tuple[int, ...] = ()

    @property
    def stop(self) -> int:
        """The offset after the last byte."""
        return self.offset + len(self.data)


@record
class Gap:
    """Bytes *offset* up to *stop* of a stream, which were dropped."""

    stream: Stream
    offset: int
    stop: int


Piece = Chunk | Gap
"""What a reader gets next of a stream."""


class JobState(StrEnum):
    """Where a job is; `teleworkerd.jobs.state` says how it gets there."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"
    LOST = "lost"

    @property
    def is_final(self) -> bool:
        """Whether the job has ended and will never change again."""
        return self in _FINAL


_FINAL: Final = frozenset(
    {JobState.FINISHED, JobState.STOPPED, JobState.FAILED, JobState.LOST}
)


class Reason(StrEnum):
    """Why a job ended."""

    EXITED = "exited"
    SIGNALED = "signaled"
    OOM = "oom"
    TIMEOUT = "timeout"
    OUTPUT = "output_limit"  # reached, and it was to be killed for that
    KILLED = "killed"
    SHUTDOWN = "shutdown"
    LAUNCH = "launch"
    LOST = "lost"


class Role(StrEnum):
    """What the bearer of a certificate may do; `docs/security.md` has the table."""

    ADMIN = "admin"  # everything, with everybody's jobs
    OPERATOR = "operator"  # see everybody's jobs and end them; start their own
    VIEWER = "viewer"  # see everybody's jobs, change nothing
    USER = "user"  # everything, with their own jobs
    DENY = "deny"  # nothing


class InputEndReason(StrEnum):
    """Why no more is taken of what a client sends to a job's stdin."""

    EOF = "eof"  # it was sent to its end, and the job has been given that
    CLOSED = "closed"  # the job reads no more
    ENDED = "ended"  # the job has
    TAKEN_OVER = "taken_over"  # another client sends now
    CANCELLED = "cancelled"  # by the client


class LaunchStage(StrEnum):
    """Where on its way to the command's first instruction a launch failed."""

    SPOOL = "spool"
    CGROUP = "cgroup"
    FORK = "fork"
    ISOLATION = "isolation"
    USER = "user"
    WORKDIR = "cwd"
    EXEC = "exec"
