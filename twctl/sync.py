"""The library for programs without an event loop: the same words, and they wait.

::

    with twctl.sync.connect(
        "worker.example.org:7443", ca="ca.pem", cert="alice.pem", key="alice-key.pem"
    ) as client:
        job = client.run(["make", "-j8"], mem=2048)

        for chunk in job.output():
            sys.stdout.buffer.write(chunk.data)

        status = job.wait()

What each does, and what it raises, is told at `twctl.Client`, `twctl.RemoteJob` and
`twctl.JobInput`, whose names these are. A client may be used from several threads.
Ctrl-C ends what waits, and the client goes on.
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self, TypedDict, Unpack

from teleworkerd.protocol.errors import ConnectionClosed
from teleworkerd.protocol.responses import InfoResponse
from teleworkerd.protocol.spec import JobSpec, TerminalSize
from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import (
    Chunk,
    Gap,
    InputEndReason,
    JobState,
    OnFull,
    Stream,
)
from twctl import client as asynchronous
from twctl import input as asynchronous_input
from twctl import job as asynchronous_job
from twctl.client import Path
from twctl.job import DEFAULT_GRACE, SIGKILL
from twctl.moments import Moment
from twctl.news import News
from twctl.sampling import Sample
from twctl.spec import Argument
from twctl.syncloop import LoopThread


class RunOptions(TypedDict, total=False):
    """What a job can be given, as `twctl.Client.run` says."""

    mem: int | None
    cpu: int | None
    io: int | None
    cpus: float | None
    pids: int | None
    strict_limits: bool
    env: Mapping[str, str] | Mapping[bytes, bytes] | None
    workdir: Argument | None
    name: str | None
    labels: Mapping[str, str] | None
    timeout: float | None
    merge: bool
    output_limit: int | None
    on_full: OnFull | str | None
    user: str | None
    stdin: bool
    tty: TerminalSize | None
    wait_all: bool
    request_id: str | None


class OutputOptions(TypedDict, total=False):
    """Which part of the output, as `twctl.RemoteJob.output` says."""

    follow: bool
    since: Moment | None
    until: Moment | None
    times: bool
    on_gap: Callable[[Gap], None] | None


def connect(
    host: str | None = None,
    *,
    ca: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
    context: str | None = None,
) -> "Client":
    """Return a client of the server at *host*, for `with`, as `twctl.connect`."""
    return Client(
        asynchronous.connect(host, ca=ca, cert=cert, key=key, context=context)
    )


class Client:
    """A server, as one of its users sees it; it connects on `with`."""

    def __init__(self, client: asynchronous.Client) -> None:
        self._client = client
        self._loop: LoopThread | None = None

    def __enter__(self) -> Self:
        loop = LoopThread()

        try:
            loop.call(self._client.__aenter__())
        except BaseException:
            loop.close()
            raise

        self._loop = loop
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def is_up(self) -> bool:
        """Whether the connection stands at this moment."""
        return self._client.is_up

    def close(self) -> None:
        """End the connection; again is no harm."""
        if self._loop is not None and not self._loop.is_closed:
            try:
                # Another thread may close it just now.
                with suppress(ConnectionClosed):
                    self._loop.call(self._client.__aexit__(None, None, None))
            finally:
                self._loop.close()

    def run(
        self, argv: Sequence[Argument], **options: Unpack[RunOptions]
    ) -> "RemoteJob":
        """Start a command, without a shell, and return its job."""
        loop = self._running()
        return RemoteJob(loop, loop.call(self._client.run(argv, **options)))

    def start(self, spec: JobSpec, *, request_id: str | None = None) -> "RemoteJob":
        """Start the job that *spec* describes, as `run` does."""
        loop = self._running()
        job = loop.call(self._client.start(spec, request_id=request_id))
        return RemoteJob(loop, job)

    def job(self, ref: str) -> "RemoteJob":
        """Return the job with this id, unique prefix or name; asks nothing yet."""
        return RemoteJob(self._running(), self._client.job(ref))

    def now(self) -> int:
        """Return what the server's clock shows, in ns since the epoch."""
        return self._client.now()

    def list(
        self,
        *,
        states: Iterable[JobState | str] = (),
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int | None = None,
        owner: str | None = None,
    ) -> list[JobStatus]:
        """Return the caller's jobs that fit, newest first, at most *limit*."""
        return self._running().call(
            self._client.list(
                states=states, name=name, labels=labels, limit=limit, owner=owner
            )
        )

    def top(
        self,
        jobs: Iterable[str] = (),
        *,
        interval: float = 1.0,
        owner: str | None = None,
    ) -> Generator[Sample, None, None]:
        """Yield what *jobs*, or all of the caller's that run, use each *interval* s."""
        return self._running().iterate(
            lambda: self._client.top(jobs, interval=interval, owner=owner)
        )

    def events(
        self, *, since: int = 0, follow: bool = True, owner: str | None = None
    ) -> Generator[News, None, None]:
        """Yield what has become of jobs after the number *since*, in order."""
        return self._running().iterate(
            lambda: self._client.events(since=since, follow=follow, owner=owner)
        )

    def info(self) -> InfoResponse:
        """Return what the server says about itself."""
        return self._running().call(self._client.info())

    def _running(self) -> LoopThread:
        if self._loop is None:
            raise RuntimeError("the client is not connected; use 'with'")

        return self._loop


class RemoteJob:
    """A job on the server; `id` is what it was asked for by."""

    def __init__(self, loop: LoopThread, job: asynchronous_job.RemoteJob) -> None:
        self._loop = loop
        self._job = job

    def __repr__(self) -> str:
        return repr(self._job)

    @property
    def id(self) -> str:
        """What it was asked for by."""
        return self._job.id

    @property
    def not_applied(self) -> Mapping[str, str]:
        """Which limits of one that was just started are not in force, and why."""
        return self._job.not_applied

    def resolve(self) -> str:
        """Return the job's own ID."""
        return self._loop.call(self._job.resolve())

    def status(self) -> JobStatus:
        """Return the job as it is now."""
        return self._loop.call(self._job.status())

    def wait(self, timeout: float | None = None) -> JobStatus:
        """Return the job's last status, when it has ended.

        Raises `TimeoutError` when that takes longer than *timeout* seconds; the job
        goes on.
        """
        return self._loop.call(self._job.wait(timeout))

    def kill(self, signal: int = SIGKILL, *, tree: bool = False) -> bool:
        """Send a signal; return False when the job had ended already."""
        return self._loop.call(self._job.kill(signal, tree=tree))

    def stop(self, grace: float | None = DEFAULT_GRACE) -> bool:
        """Send SIGTERM to the tree and, *grace* seconds later, SIGKILL."""
        return self._loop.call(self._job.stop(grace))

    def remove(self) -> None:
        """Remove the record and the output of the job, which must have ended."""
        self._loop.call(self._job.remove())

    def resize(self, columns: int, rows: int) -> bool:
        """Say how large its terminal is now; return False when it had ended."""
        return self._loop.call(self._job.resize(columns, rows))

    def output(
        self,
        stream: Stream | str = Stream.STDOUT,
        *,
        offset: int = 0,
        **options: Unpack[OutputOptions],
    ) -> Generator[Chunk, None, None]:
        """Yield a stream's bytes from *offset* on, each once, in order."""
        return self._loop.iterate(
            lambda: self._job.output(stream, offset=offset, **options)
        )

    def interleaved(
        self, *, stdout: int = 0, stderr: int = 0, **options: Unpack[OutputOptions]
    ) -> Generator[Chunk, None, None]:
        """Yield both streams' bytes in the order in which the job wrote them."""
        return self._loop.iterate(
            lambda: self._job.interleaved(stdout=stdout, stderr=stderr, **options)
        )

    def input(self) -> "JobInput":
        """Return its stdin, to send to it in a `with` block."""
        return JobInput(self._loop, self._loop.call(self._job.input()))


class JobInput:
    """Sends to a job's stdin: each byte once and in order."""

    def __init__(self, loop: LoopThread, stdin: asynchronous_input.JobInput) -> None:
        self._loop = loop
        self._stdin = stdin

    def __enter__(self) -> Self:
        self._loop.call(self._stdin.__aenter__())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A child leaves it to its parent, and an error is not to be hidden by another.
        if self._loop.is_of_another_process or (exc_type and self._loop.is_closed):
            return

        self._loop.call(self._stdin.__aexit__(exc_type, exc_value, traceback))

    @property
    def ended(self) -> InputEndReason | None:
        """Why no more is taken, once that is so."""
        return self._stdin.ended

    @property
    def taken(self) -> int:
        """How many bytes of ours the job has in its stdin."""
        return self._stdin.taken

    def write(self, data: bytes) -> None:
        """Send *data*; waits while much of what was written before is not taken."""
        self._loop.call(self._stdin.write(data))

    def drain(self) -> None:
        """Wait until the job has all that was written."""
        self._loop.call(self._stdin.drain())

    def close(self) -> InputEndReason:
        """Send the end, and return why no more is taken when that is so."""
        return self._loop.call(self._stdin.close())

    def leave(self) -> None:
        """Leave stdin open for another sender."""
        self._loop.call(self._stdin.leave())

    def wait(self) -> InputEndReason:
        """Return why no more is taken, when that is so."""
        return self._loop.call(self._stdin.wait())
