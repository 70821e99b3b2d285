"""Stand-ins for what a test must be able to time: the executor and the clock."""

import asyncio
import hashlib
import shutil
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from teleworkerd.config import Config
from teleworkerd.execution import (
    Caller,
    ExitRecord,
    JobIdentity,
    Launched,
    Postscript,
)
from teleworkerd.executors.base import ExecutionSink
from teleworkerd.jobdir import JobDirectory
from teleworkerd.output.gaps import read_gaps
from teleworkerd.protocol.spec import JobSpec, Limits, TerminalSize
from teleworkerd.protocol.status import JobStatus, Usage
from teleworkerd.protocol.types import JobState, Reason, Stream
from teleworkerd.settings import DaemonConfig, OutputConfig
from teleworkerd.store import JobRecord
from tests.output.written import Written


DEADLINE: Final = 10.0  # seconds; what it bounds takes milliseconds
LAUNCHED: Final = Launched(4711, 5, "nobody", Limits(mem=64))
EMPTY: Final = hashlib.sha256().hexdigest()
EXITED: Final = ExitRecord(
    LAUNCHED,
    9,
    Reason.EXITED,
    exit_code=3,
    stdout_sha256=EMPTY,
    stderr_sha256=EMPTY,
    usage=Usage(cpu_seconds=0.5),
)
UNSEALED: Final = replace(EXITED, stdout_sha256=None, stderr_sha256=None)
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

    def signal(self, number: int, *, tree: bool, by: Caller | None = None) -> None:
        """Note the signal."""
        self.calls.append(("signal", number, tree))
        self.asked.set()

    def stop(
        self, *, grace: float | None, reason: Reason, by: Caller | None = None
    ) -> None:
        """Note the stop."""
        self.calls.append(("stop", grace, reason))
        self.asked.set()

    def take_input(self, turn: int, sender: str, *, by: Caller | None = None) -> None:
        """Note the turn."""
        self.calls.append(("take", turn, sender))
        self.asked.set()

    def write_input(self, turn: int, data: bytes, *, eof: bool) -> None:
        """Note the bytes."""
        self.calls.append(("write", turn, data, eof))
        self.asked.set()

    def resize(self, size: TerminalSize) -> None:
        """Note the size."""
        self.calls.append(("resize", size))
        self.asked.set()


class FakeExecutor:
    """Starts nothing: the test says what happens.

    Launches wait while `gate` is closed, and fail while there is an `error`.
    `known` are the jobs that `attach` finds running, `exits` those that it finds
    ended. Removals wait while `bin` is closed, and fail while there is a `refusal`;
    `asked` is set from the first one on.
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
        self.bin = asyncio.Event()
        self.bin.set()
        self.refusal: Exception | None = None
        self.asked = asyncio.Event()
        self.removed: list[str] = []
        self.usages: dict[str, Usage] = {}
        self.measured: list[frozenset[str]] = []
        self.sealed: dict[str, Postscript] = {}
        self.outputs: dict[str, Written] = {}
        self._jobs_dir = jobs_dir

    async def start(
        self,
        job: JobIdentity,
        spec: JobSpec,
        sink: ExecutionSink,
        *,
        by: Caller | None = None,
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

        gaps = read_gaps(JobDirectory(self._jobs_dir / job_id).gaps)

        if launched := self.known.get(job_id):
            sink.launched(launched)

            for gap in gaps:
                sink.output_dropped(gap.stream, gap.offset, gap.stop)

            sink.output_grown(*self.output(job_id).recorded)
            return self.executions.setdefault(job_id, FakeExecution())

        if record := self.exits.get(job_id):
            for gap in gaps:
                sink.output_dropped(gap.stream, gap.offset, gap.stop)

            sink.exited(record)
        else:
            sink.vanished("nobody knows")

        return None

    async def measure(self, job_ids: Collection[str]) -> Mapping[str, Usage]:
        """Return what the test says that these jobs use."""
        self.measured.append(frozenset(job_ids))
        return {name: self.usages[name] for name in job_ids if name in self.usages}

    async def drained(self) -> None:
        """Nothing waits here."""

    async def seal(self, job_id: str, postscript: Postscript) -> None:
        """Note what was found out."""
        self.sealed[job_id] = postscript

    async def remove(self, job_id: str, *, by: Caller | None = None) -> None:
        """Do as the attributes say."""
        self.removed.append(job_id)
        self.asked.set()
        await self.bin.wait()

        if self.refusal is not None:
            raise self.refusal

        shutil.rmtree(self._jobs_dir / job_id, ignore_errors=True)

    def output(self, job_id: str) -> Written:
        """Return what the job has written."""
        if job_id not in self.outputs:
            self.outputs[job_id] = Written(self._jobs_dir / job_id)

        return self.outputs[job_id]

    def write(
        self, job_id: str, data: bytes, stream: Stream = Stream.STDOUT, *, at: int = 0
    ) -> None:
        """Let the job have written *data*, at that time."""
        output = self.output(job_id)
        output.write(data, stream)
        output.record(at)
        self.sinks[job_id].output_grown(*output.sizes)

    def drop(self, job_id: str, count: int, stream: Stream = Stream.STDOUT) -> None:
        """Let *count* bytes that the job wrote have been dropped."""
        output = self.output(job_id)
        stop = output.drop(count, stream).stop
        output.record()
        self.sinks[job_id].output_dropped(stream, stop - count, stop)
        self.sinks[job_id].output_grown(*output.sizes)

    def exit(
        self, job_id: str, record: ExitRecord = EXITED, *, sealed: bool = True
    ) -> None:
        """Let the job end with all that it wrote; *sealed*: its digests are known."""
        record = self.exit_record(job_id, record, sealed=sealed)
        self.sinks[job_id].exited(record)

    def exit_record(
        self, job_id: str, record: ExitRecord = EXITED, *, sealed: bool = True
    ) -> ExitRecord:
        """Return *record* with what the job has written."""
        output = self.output(job_id)
        stdout, stderr = output.sizes
        digests = [output.sha256(stream).hex() if sealed else None for stream in Stream]
        return replace(
            record,
            stdout=stdout,
            stderr=stderr,
            stdout_sha256=digests[0],
            stderr_sha256=digests[1],
        )


def config_in(path: Path) -> Config:
    """Return a configuration with small pieces of output, below *path*."""
    config = Config(
        DaemonConfig(state_dir=str(path)),
        output=OutputConfig(
            window=2048, chunk=1024, queue_chunks=2, min_free=0, sync_interval=0
        ),
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
