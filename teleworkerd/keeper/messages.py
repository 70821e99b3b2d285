"""What the keeper tells its server over their socket pair; `orders` is the other way.

The same framing and field rules as protocol.md has for clients; both ends are
of one version, so there is no hello to negotiate.
"""

from collections.abc import Mapping
from typing import Annotated, Final

from teleworkerd.config import Config
from teleworkerd.execution import (
    ExitRecord,
    InputFacts,
    Launched,
)
from teleworkerd.privilege_drop import ServerAccount
from teleworkerd.protocol.codec import registry
from teleworkerd.protocol.messages import Message
from teleworkerd.protocol.records import record
from teleworkerd.protocol.status import LaunchFailure, Usage
from teleworkerd.protocol.types import (
    AtMost,
    Nanoseconds,
    Offset,
    Stream,
    Text,
    Word,
)


MAX_KEPT: Final = 512  # jobs in one message, which a frame is sure to hold


@record
class KeptJob:
    """A job that runs: its facts, the ends of its streams, why it is held up.

    Or `unkillable`, as in `JobStatus`. Its gaps stand in its directory. `stopping`
    says that it is to be over. `input` is there if it takes any.
    """

    job: Word
    launched: Launched
    stdout: Offset
    stderr: Offset
    held_up: Text | None = None
    stopping: bool = False
    unkillable: Text | None = None
    input: InputFacts | None = None


@record
class KeptJobs(Message):
    """Some of the jobs that run; comes before `Welcome`, which has the rest."""

    type = "kept"
    jobs: Annotated[tuple[KeptJob, ...], AtMost(MAX_KEPT)]


@record
class Welcome(Message):
    """All that the server needs to begin; only `KeptJobs` may come before it.

    `restarts` is how many servers came before this one, `has_served` whether any of
    them was ready; `was_rebooted` says that earlier keepers were in another run of
    the kernel. `account` is whom the server has to become before it serves; None
    if it has nothing to give up.
    """

    type = "welcome"
    keeper_started_at: Nanoseconds
    restarts: int
    config: Config
    cgroups: Word
    limits: Annotated[Mapping[Word, Text], AtMost(16)]
    jobs: Annotated[tuple[KeptJob, ...], AtMost(MAX_KEPT)]
    was_rebooted: bool = False
    has_served: bool = False
    account: ServerAccount | None = None


@record
class JobLaunched(Message):
    """The command runs."""

    type = "launched"
    job: Word
    launched: Launched


@record
class JobFailed(Message):
    """The command could not be started; *limit* names one that was the cause."""

    type = "failed"
    job: Word
    failure: LaunchFailure
    failed_at: Nanoseconds
    limit: Word | None = None


@record
class JobLost(Message):
    """The job ran, or may have, and nobody can say how it ended."""

    type = "lost"
    job: Word
    why: Text


@record
class OutputGrown(Message):
    """The streams have these ends now; many moves may be told as one."""

    type = "grown"
    job: Word
    stdout: Offset
    stderr: Offset


@record
class OutputDropped(Message):
    """Bytes *offset* up to *stop* were not kept; comes before `OutputGrown`."""

    type = "dropped"
    job: Word
    stream: Stream
    offset: Offset
    stop: Offset


@record
class OutputHeldUp(Message):
    """Why the job's output is not taken now; None: it is again."""

    type = "held_up"
    job: Word
    why: Text | None = None


@record
class TreeUnkillable(Message):
    """Which processes of the job the kernel does not end; None: they are gone."""

    type = "unkillable"
    job: Word
    why: Text | None = None


@record
class InputMoved(Message):
    """The job has taken more of what it was sent, or another may send, or nobody."""

    type = "input_moved"
    job: Word
    input: InputFacts


@record
class JobUsage:
    """What one job uses."""

    job: Word
    usage: Usage


@record
class JobsMeasured(Message):
    """What was asked for by `MeasureJobs`; a job that has ended is left out."""

    type = "measured"
    number: Offset
    jobs: Annotated[tuple[JobUsage, ...], AtMost(MAX_KEPT)]


@record
class JobGone(Message):
    """The job's directory is no more, or could not be removed because of *error*."""

    type = "gone"
    job: Word
    error: Text | None = None


@record
class JobSealed(Message):
    """The exit record of the job has its digests, or has not because of *error*."""

    type = "sealed"
    job: Word
    error: Text | None = None


@record
class JobExited(Message):
    """The job is over, its exit record written, its spools complete."""

    type = "exited"
    job: Word
    record: ExitRecord


@record
class Reload(Message):
    """The configuration has changed, or the files that it names."""

    type = "reload"
    config: Config


@record
class Probe(Message):
    """Asks whether the server's loop turns; answered by `Alive`.

    Says how many descriptors the keeper has open, which the server may not look up.
    """

    type = "probe"
    number: int
    open_files: int = 0


@record
class Leave(Message):
    """Say goodbye to clients, and exit; jobs go on without this server."""

    type = "leave"


@record
class Shutdown(Message):
    """End all jobs, say goodbye to clients, and exit."""

    type = "shutdown"


FROM_KEEPER: Final = registry(
    (
        KeptJobs,
        Welcome,
        JobLaunched,
        JobFailed,
        JobLost,
        OutputGrown,
        OutputDropped,
        OutputHeldUp,
        TreeUnkillable,
        InputMoved,
        JobsMeasured,
        JobGone,
        JobSealed,
        JobExited,
        Reload,
        Probe,
        Leave,
        Shutdown,
    )
)
