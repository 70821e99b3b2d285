"""What server and keeper tell each other over their socket pair.

The same framing and field rules as protocol.md has for clients; both ends are
of one version, so there is no hello to negotiate.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from teleworkerd.config import Config
from teleworkerd.execution import ExitRecord, JobIdentity, Launched
from teleworkerd.protocol.codec import registry
from teleworkerd.protocol.messages import Message
from teleworkerd.protocol.types import (
    AtMost,
    JobSpec,
    LaunchFailure,
    Offset,
    Reason,
    Text,
    Word,
)


MAX_KEPT: Final = 512  # jobs in one message, which a frame is sure to hold

# From the server


@dataclass(frozen=True, slots=True)
class Launch(Message):
    """Start this; answered by `JobLaunched` or `JobFailed`."""

    type = "launch"
    job: JobIdentity
    spec: JobSpec


@dataclass(frozen=True, slots=True)
class SignalJob(Message):
    """Send a signal, as `Execution.signal` has it."""

    type = "signal"
    job: Word
    number: int
    tree: bool


@dataclass(frozen=True, slots=True)
class StopJob(Message):
    """SIGTERM, later SIGKILL, as `Execution.stop` has it."""

    type = "stop"
    job: Word
    reason: Reason
    grace: float | None = None


@dataclass(frozen=True, slots=True)
class Ready(Message):
    """The server takes connections now."""

    type = "ready"


# From the keeper


@dataclass(frozen=True, slots=True)
class KeptJob:
    """A job that runs: its facts and the sizes of its spools."""

    job: Word
    launched: Launched
    stdout: Offset
    stderr: Offset


@dataclass(frozen=True, slots=True)
class KeptJobs(Message):
    """Some of the jobs that run; comes before `Welcome`, which has the rest."""

    type = "kept"
    jobs: Annotated[tuple[KeptJob, ...], AtMost(MAX_KEPT)]


@dataclass(frozen=True, slots=True)
class Welcome(Message):
    """All that the server needs to begin; only `KeptJobs` may come before it."""

    type = "welcome"
    config: Config
    cgroups: Word
    limits: Annotated[Mapping[Word, Text], AtMost(16)]
    jobs: Annotated[tuple[KeptJob, ...], AtMost(MAX_KEPT)]


@dataclass(frozen=True, slots=True)
class JobLaunched(Message):
    """The command runs."""

    type = "launched"
    job: Word
    launched: Launched


@dataclass(frozen=True, slots=True)
class JobFailed(Message):
    """The command could not be started; *limit* names one that was the cause."""

    type = "failed"
    job: Word
    failure: LaunchFailure
    limit: Word | None = None


@dataclass(frozen=True, slots=True)
class OutputGrown(Message):
    """The spools have these sizes now; many moves may be told as one."""

    type = "grown"
    job: Word
    stdout: Offset
    stderr: Offset


@dataclass(frozen=True, slots=True)
class JobExited(Message):
    """The job is over, its exit record written, its spools complete."""

    type = "exited"
    job: Word
    record: ExitRecord


@dataclass(frozen=True, slots=True)
class Reload(Message):
    """The configuration has changed, or the files that it names."""

    type = "reload"
    config: Config


@dataclass(frozen=True, slots=True)
class Shutdown(Message):
    """End all jobs, say goodbye to clients, and exit."""

    type = "shutdown"


FROM_SERVER: Final = registry((Launch, SignalJob, StopJob, Ready))
FROM_KEEPER: Final = registry(
    (
        KeptJobs,
        Welcome,
        JobLaunched,
        JobFailed,
        OutputGrown,
        JobExited,
        Reload,
        Shutdown,
    )
)
