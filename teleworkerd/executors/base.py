"""What the jobs expect of whatever runs them."""

from collections.abc import Collection, Mapping
from typing import Protocol

from teleworkerd.execution import (
    Caller,
    ExitRecord,
    InputFacts,
    JobIdentity,
    Launched,
    Postscript,
)
from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.spec import JobSpec, TerminalSize
from teleworkerd.protocol.status import LaunchFailure, Usage
from teleworkerd.protocol.types import Reason, Stream


class StartUnknown(TeleworkerError):
    """The command runs, or has run, or never will: the sink may hear of it later."""


class ExecutionSink(Protocol):
    """Where an executor tells what happens to a job; plain functions."""

    def launched(self, launched: Launched) -> None:
        """The command runs."""

    def launch_failed(self, failure: LaunchFailure, *, ended_at: int) -> None:
        """The command never ran."""

    def stop_requested(self) -> None:
        """The job is to be over."""

    def output_grown(self, stdout: int, stderr: int) -> None:
        """The streams have these ends now."""

    def output_dropped(self, stream: Stream, offset: int, stop: int) -> None:
        """Bytes *offset* up to *stop* are not kept; told before the growth."""

    def output_held_up(self, why: str | None) -> None:
        """Output is not taken now, because of that; None: it is again."""

    def unkillable(self, why: str | None) -> None:
        """Processes of the job cannot be ended, *why* says which; None: they are."""

    def input_moved(self, facts: InputFacts) -> None:
        """This is how far its stdin is."""

    def exited(self, record: ExitRecord) -> None:
        """The job is over and its spools are complete."""

    def vanished(self, message: str) -> None:
        """Nobody can say any more how the job ended."""


class Execution(Protocol):
    """A job's presence inside an executor; *by* is who asks, for the audit log."""

    def signal(self, number: int, *, tree: bool, by: Caller | None = None) -> None:
        """Send a signal to the main process or the whole tree.

        SIGKILL always means the tree, and that the job was killed.
        """

    def stop(
        self, *, grace: float | None, reason: Reason, by: Caller | None = None
    ) -> None:
        """SIGTERM to the tree, SIGKILL after *grace* seconds (None: never)."""

    def take_input(self, turn: int, sender: str, *, by: Caller | None = None) -> None:
        """Let *sender* send to stdin; what those before have on their way is dropped.

        The sink hears of the *turn* when it begins.
        """

    def write_input(self, turn: int, data: bytes, *, eof: bool) -> None:
        """Pass *data* on to stdin, and its end, unless the *turn* is over."""

    def resize(self, size: TerminalSize) -> None:
        """Change the size of its terminal."""


class Executor(Protocol):
    """Starts jobs and finds them again; *by* is who asks, for the audit log."""

    async def start(
        self,
        job: JobIdentity,
        spec: JobSpec,
        sink: ExecutionSink,
        *,
        by: Caller | None = None,
    ) -> Execution:
        """Start *spec*; the sink hears of it before this returns.

        Raises `LaunchError`, `StartUnknown`, `Unavailable`; only after
        `StartUnknown` it may run.
        """

    def attach(self, job_id: str, sink: ExecutionSink) -> Execution | None:
        """Go on with a job of an earlier server.

        The sink hears at once what is known; None when the job is over.
        """

    async def measure(self, job_ids: Collection[str]) -> Mapping[str, Usage]:
        """Return what each of these uses now; a job that does not run is left out.

        Raises `Unavailable`.
        """

    async def drained(self) -> None:
        """Wait until what was asked of executions is on its way, and no longer here."""

    async def seal(self, job_id: str, postscript: Postscript) -> None:
        """Keep what was found out with a job that has exited; raises `Unavailable`."""

    async def remove(self, job_id: str, *, by: Caller | None = None) -> None:
        """Remove what is kept of a job that is over; again is no harm.

        Raises `Unavailable`.
        """
