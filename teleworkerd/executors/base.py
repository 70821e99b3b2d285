"""What the jobs expect of whatever runs them."""

from typing import Protocol

from teleworkerd.execution import ExitRecord, JobIdentity, Launched
from teleworkerd.protocol.types import JobSpec, Reason


class ExecutionSink(Protocol):
    """Where an executor tells what happens to a job; plain functions."""

    def launched(self, launched: Launched) -> None:
        """The command runs."""

    def output_grown(self, stdout: int, stderr: int) -> None:
        """The spools have these sizes now."""

    def exited(self, record: ExitRecord) -> None:
        """The job is over and its spools are complete."""

    def vanished(self, message: str) -> None:
        """Nobody can say any more how the job ended."""


class Execution(Protocol):
    """A job's presence inside an executor."""

    def signal(self, number: int, *, tree: bool) -> None:
        """Send a signal to the main process or the whole tree.

        SIGKILL always means the tree, and that the job was killed.
        """

    def stop(self, *, grace: float | None, reason: Reason) -> None:
        """SIGTERM to the tree, SIGKILL after *grace* seconds (None: never)."""


class Executor(Protocol):
    """Starts jobs and finds them again."""

    async def start(
        self, job: JobIdentity, spec: JobSpec, sink: ExecutionSink
    ) -> Execution:
        """Start *spec*; the sink hears of it before this returns.

        Raises `LaunchError`.
        """

    def attach(self, job_id: str, sink: ExecutionSink) -> Execution | None:
        """Go on with a job of an earlier server.

        The sink hears at once what is known; None when the job is over.
        """
