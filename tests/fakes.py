"""Stand-ins for what a test must be able to time: the executor and the clock."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Final

from teleworkerd.config import Config, DaemonConfig, OutputConfig
from teleworkerd.execution import ExitRecord, JobIdentity, Launched
from teleworkerd.executors.base import ExecutionSink
from teleworkerd.jobdir import JobDirectory
from teleworkerd.protocol.types import (
    JobSpec,
    JobState,
    JobStatus,
    Limits,
    Reason,
    Stream,
    Usage,
)
from teleworkerd.store import JobRecord


DEADLINE: Final = 10.0  # seconds; what it bounds takes milliseconds
LAUNCHED: Final = Launched(4711, 5, "nobody", Limits(mem=64))
EXITED: Final = ExitRecord(
    LAUNCHED, 9, Reason.EXITED, exit_code=3, usage=Usage(cpu_seconds=0.5)
)
TRUE: Final = JobSpec((b"true",))


class Clock:
    """Each look at it is one nanosecond after the last."""

    def __init__(self) -> None:
        self.now = 1000

    def __call__(self) -> int:
        self.now += 1
        return self.now


class FakeExecution:
    """Writes down what it is asked for; `asked` is set from the first time on."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.calls: list[tuple[object, ...]] = []

    def signal(self, number: int, *, tree: bool) -> None:
        """Note the signal."""
        self.calls.append(("signal", number, tree))
        self.asked.set()

    def stop(self, *, grace: float | None, reason: Reason) -> None:
        """Note the stop."""
        self.calls.append(("stop", grace, reason))
        self.asked.set()


class FakeExecutor:
    """Starts nothing: the test says what happens.

    Launches wait while `gate` is closed, and fail while there is an `error`.
    `known` are the jobs that `attach` finds running, `exits` those that it finds
    ended.
    """

    def __init__(self, jobs_dir: Path) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.exits_at_once = False
        self.started: list[JobIdentity] = []
        self.sinks: dict[str, ExecutionSink] = {}
        self.executions: dict[str, FakeExecution] = {}
        self.known: dict[str, Launched] = {}
        self.exits: dict[str, ExitRecord] = {}
        self._jobs_dir = jobs_dir

    async def start(
        self, job: JobIdentity, spec: JobSpec, sink: ExecutionSink
    ) -> FakeExecution:
        """Do as the attributes say."""
        self.started.append(job)
        self.sinks[job.id] = sink
        await self.gate.wait()

        if self.error is not None:
            raise self.error

        JobDirectory(self._jobs_dir / job.id).path.mkdir(parents=True, exist_ok=True)
        sink.launched(LAUNCHED)
        execution = self.executions[job.id] = FakeExecution()

        if self.exits_at_once:
            sink.exited(EXITED)

        return execution

    def attach(self, job_id: str, sink: ExecutionSink) -> FakeExecution | None:
        """Do as the attributes say."""
        self.sinks[job_id] = sink

        if launched := self.known.get(job_id):
            sink.launched(launched)
            return self.executions.setdefault(job_id, FakeExecution())

        if record := self.exits.get(job_id):
            sink.exited(record)
        else:
            sink.vanished("nobody knows")

        return None

    def write(self, job_id: str, data: bytes, stream: Stream = Stream.STDOUT) -> None:
        """Let the job have written *data*."""
        directory = JobDirectory(self._jobs_dir / job_id)

        with directory.spool(stream).open("ab") as file:
            file.write(data)

        sizes = [
            spool.stat().st_size if spool.exists() else 0
            for spool in map(directory.spool, Stream)
        ]
        self.sinks[job_id].output_grown(*sizes)

    def exit(self, job_id: str, record: ExitRecord = EXITED) -> None:
        """Let the job end with all the output that it has."""
        sizes = {
            str(stream): spool.stat().st_size
            for stream in Stream
            if (spool := self._jobs_dir / job_id / stream).exists()
        }
        self.sinks[job_id].exited(replace(record, **sizes))  # type: ignore[arg-type]  # the names of the two sizes


def config_in(path: Path) -> Config:
    """Return a configuration with small pieces of output, below *path*."""
    config = Config(
        DaemonConfig(state_dir=str(path)),
        output=OutputConfig(window=2048, chunk=1024, queue_chunks=2),
    )
    config.jobs_dir.mkdir(exist_ok=True)
    return config


def record_of(
    job_id: str = "job",
    *,
    state: JobState = JobState.RUNNING,
    **facts: object,
) -> JobRecord:
    """Return a job as the store would have it."""
    status = JobStatus(
        id=job_id,
        owner="alice",
        command=(b"true",),
        state=state,
        created_at=1,
        limits=Limits(),
    )
    status = replace(status, **facts)  # type: ignore[arg-type]  # names are the caller's
    return JobRecord(f"request of {job_id}", b"digest", status)


def open_descriptors(path: Path) -> int:
    """Return how many descriptors this process has of the file at *path*."""
    count = 0

    for entry in Path("/proc/self/fd").iterdir():
        try:
            count += entry.readlink() == path
        except FileNotFoundError:  # the one by which the directory is listed
            continue

    return count
