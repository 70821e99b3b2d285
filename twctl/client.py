"""The library: a server as `Client`, its jobs as `RemoteJob`."""

import os
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

from teleworkerd.protocol.messages import (
    MAX_PAGE,
    EventsRequest,
    InfoRequest,
    InterleaveRequest,
    KillRequest,
    ListRequest,
    OutputRequest,
    RemoveRequest,
    ResizeRequest,
    RunRequest,
    StatusRequest,
    StopRequest,
    TopRequest,
    WaitRequest,
)
from teleworkerd.protocol.responses import (
    DoneResponse,
    InfoResponse,
    ListResponse,
    RunResponse,
    StatusResponse,
)
from teleworkerd.protocol.spec import JobSpec, TerminalSize
from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import Chunk, Gap, JobState, OnFull, Stream
from twctl.input import JobInput
from twctl.link import Link
from twctl.moments import Moment, nanoseconds
from twctl.news import News
from twctl.profile import Profile, Settings, load_profile
from twctl.reading import Reading
from twctl.sampling import Rates, Sample
from twctl.spec import Argument, build_spec
from twctl.streams import follow_news, watch_use


SIGKILL: Final = 9
DEFAULT_GRACE: Final = 10.0  # seconds

_ID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

Path = str | os.PathLike[str]


def connect(
    host: str | None = None,
    *,
    ca: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
    context: str | None = None,
) -> "Client":
    """Return the client of the server at *host* (`HOST[:PORT]`), for `async with`.

    What is not given comes from the environment and the contexts of `twctl`.
    Raises `ProfileError` when that leaves a gap.
    """
    files = (None if file is None else os.fspath(file) for file in (ca, cert, key))
    return Client(load_profile(Settings(host, *files), context=context))


class RemoteJob:
    """A job on the server; `id` is what it was asked for by.

    Of one that was just started, `not_applied` says which limits are not in force, and
    why.

    What a name or prefix stands for is found out once, by the first `output` or
    `wait`: later, after a lost connection too, it may stand for another job.

    Every method raises `JobNotFound` when there is no such job of the caller's.
    """

    def __init__(
        self, link: Link, ref: str, *, not_applied: Mapping[str, str] | None = None
    ) -> None:
        self._link = link
        self._ref = ref.lower() if _ID.fullmatch(ref) else None
        self.id = ref
        self.not_applied: Mapping[str, str] = not_applied or {}

    def __repr__(self) -> str:
        return f"RemoteJob({self.id!r})"

    async def resolve(self) -> str:
        """Return the job's own ID, which the server is asked for once."""
        if self._ref is None:
            self._ref = (await self.status()).id

        return self._ref

    def now(self) -> int:
        """Return what the server's clock shows, in ns since the epoch."""
        return self._link.now()

    async def status(self) -> JobStatus:
        """Return the job as it is now."""
        request = StatusRequest(0, self._ref or self.id)
        return (await self._link.ask(request, StatusResponse)).status

    async def wait(self) -> JobStatus:
        """Return the job's last status, when it has ended."""
        request = WaitRequest(0, await self.resolve())
        return (await self._link.ask(request, StatusResponse)).status

    async def kill(self, signal: int = SIGKILL, *, tree: bool = False) -> bool:
        """Send a signal; return False when the job had ended already.

        SIGKILL goes to the whole tree, another to the main process unless
        *tree*. Any but SIGKILL is sent at most once: a connection lost meanwhile
        is a `ConnectionClosed`.
        """
        request = KillRequest(0, self._ref or self.id, int(signal), tree)
        again = signal == SIGKILL
        return not (
            await self._link.ask(request, DoneResponse, again=again)
        ).already_ended

    async def stop(self, grace: float | None = DEFAULT_GRACE) -> bool:
        """Send SIGTERM to the tree and, *grace* seconds later, SIGKILL.

        None waits for ever. Returns False when the job had ended already.
        """
        request = StopRequest(0, self._ref or self.id, grace)
        return not (await self._link.ask(request, DoneResponse)).already_ended

    async def input(self) -> JobInput:
        """Return its stdin, to send to it in an `async with` block.

        The job must have been started with *stdin* or a terminal. Whoever sent to it
        before is told that another one does now.
        """
        return JobInput(self._link, await self.resolve())

    async def resize(self, columns: int, rows: int) -> bool:
        """Say how large its terminal is now; return False when it had ended."""
        request = ResizeRequest(0, self._ref or self.id, TerminalSize(columns, rows))
        return not (await self._link.ask(request, DoneResponse)).already_ended

    async def remove(self) -> None:
        """Remove the record and the output of the job, which must have ended.

        Raises `JobNotEnded`. Asked at most once: a connection lost meanwhile is a
        `ConnectionClosed`.
        """
        request = RemoveRequest(0, self._ref or self.id)
        await self._link.ask(request, DoneResponse, again=False)

    async def output(  # noqa: PLR0913 - one parameter for each thing to choose
        self,
        stream: Stream | str = Stream.STDOUT,
        *,
        offset: int = 0,
        follow: bool = True,
        since: Moment | None = None,
        until: Moment | None = None,
        times: bool = False,
        on_gap: Callable[[Gap], None] | None = None,
    ) -> AsyncGenerator[Chunk, None]:
        """Yield a stream's bytes from *offset* on, each once, in order.

        With *follow* it goes on until the job has ended and all is read, over
        lost connections too; without, it ends at what there is now. Bytes that
        came before *since*, or at *until* and later, are left out; with *times*
        the chunks say when theirs came.

        Bytes that were dropped are told *on_gap* before what comes after them;
        without it they are an `OutputDropped`. Whoever reads all from the first
        byte on gets a `DigestMismatch` at the end if it is not what the job wrote.
        Raises `OffsetOutOfRange` when the stream does not hold the offset.
        """
        request = OutputRequest(
            0,
            await self.resolve(),
            Stream(stream),
            offset,
            follow,
            since=self._nanoseconds(since),
            until=self._nanoseconds(until),
            times=times,
        )

        async with aclosing(self.read(request).chunks(on_gap)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def interleaved(  # noqa: PLR0913 - one parameter for each thing to choose
        self,
        *,
        stdout: int = 0,
        stderr: int = 0,
        follow: bool = True,
        since: Moment | None = None,
        until: Moment | None = None,
        times: bool = False,
        on_gap: Callable[[Gap], None] | None = None,
    ) -> AsyncGenerator[Chunk, None]:
        """Yield both streams' bytes in the order in which the job wrote them.

        That order is the same for every reader. *stdout* and *stderr* are the
        offsets to begin at; all else is as with `output`.
        """
        request = InterleaveRequest(
            0,
            await self.resolve(),
            stdout,
            stderr,
            follow,
            since=self._nanoseconds(since),
            until=self._nanoseconds(until),
            times=times,
        )

        async with aclosing(self.read(request).chunks(on_gap)) as chunks:
            async for chunk in chunks:
                yield chunk

    def read(self, request: OutputRequest | InterleaveRequest) -> Reading:
        """Return what *request* asks for, gaps and the job's end included."""
        return Reading(self._link, request)

    def _nanoseconds(self, moment: Moment | None) -> int | None:
        return None if moment is None else nanoseconds(moment, now=self._link.now())


class Client:
    """A server, as one of its users sees it.

    Connects on `async with`, which raises `ConnectionClosed` when it cannot.
    Later losses of the connection are mended: what waits goes on waiting, for
    *retry_for* seconds without a server (0: fails at once), or for as long as
    `TWCTL_RETRY_FOR` says, or for some minutes. *notice* is called with a
    sentence for each outage, *warn* with one for each certificate, of those in our
    files, that ends soon.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        retry_for: float | None = None,
        notice: Callable[[str], None] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self._link = Link(profile, retry_for=retry_for, notice=notice, warn=warn)

    async def __aenter__(self) -> Self:
        await self._link.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._link.close()

    @property
    def is_up(self) -> bool:
        """Whether the connection stands at this moment."""
        return self._link.is_up

    async def run(  # noqa: PLR0913 - one parameter for each thing a job can be given
        self,
        argv: Sequence[Argument],
        *,
        mem: int | None = None,
        cpu: int | None = None,
        io: int | None = None,
        cpus: float | None = None,
        pids: int | None = None,
        strict_limits: bool = False,
        env: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
        workdir: Argument | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the job's, not this call's
        merge: bool = False,
        output_limit: int | None = None,
        on_full: OnFull | str | None = None,
        user: str | None = None,
        stdin: bool = False,
        tty: TerminalSize | None = None,
        wait_all: bool = False,
        request_id: str | None = None,
    ) -> RemoteJob:
        """Start a command, without a shell, and return its job.

        *mem* is in megabytes, *cpu* and *io* in percent of a share, *cpus* is how many
        processors it may keep busy and *pids* how many processes and threads it may
        have, *timeout* is in seconds, *output_limit* in bytes of both streams together.
        A limit that the server's machine cannot apply is in `JobStatus.not_applied`;
        with *strict_limits* it is a `LimitRejected`. With *merge* stderr goes
        into stdout. *user* is one of the server's accounts that `info` says are
        granted, instead of the first of them. With *stdin* it reads what
        `RemoteJob.input` sends, else nothing; with *tty* its stdin, stdout and stderr
        are a terminal. With *wait_all* it goes on until nothing that it started runs.
        A lost connection never starts it twice; to be as safe across calls,
        give the same *request_id* again. Raises `LaunchFailed`,
        `LimitRejected`, `NameTaken`, `PermissionDenied`, `TooMany` and other
        `RequestError`.
        """
        spec = build_spec(
            argv,
            mem=mem,
            cpu=cpu,
            io=io,
            cpus=cpus,
            pids=pids,
            strict_limits=strict_limits,
            env=env,
            workdir=workdir,
            name=name,
            labels=labels,
            timeout=timeout,
            merge=merge,
            output_limit=output_limit,
            on_full=on_full,
            user=user,
            stdin=stdin,
            tty=tty,
            wait_all=wait_all,
        )
        return await self.start(spec, request_id=request_id)

    async def start(self, spec: JobSpec, *, request_id: str | None = None) -> RemoteJob:
        """Start the job that *spec* describes, as `run` does."""
        request = RunRequest(0, request_id or os.urandom(16).hex(), spec)
        response = await self._link.ask(request, RunResponse)
        return RemoteJob(self._link, response.job, not_applied=response.not_applied)

    def now(self) -> int:
        """Return what the server's clock shows, in ns since the epoch."""
        return self._link.now()

    def job(self, ref: str) -> RemoteJob:
        """Return the job with this id, unique prefix or name; asks nothing yet."""
        return RemoteJob(self._link, ref)

    async def list(
        self,
        *,
        states: Iterable[JobState | str] = (),
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int | None = None,
        owner: str | None = None,
    ) -> list[JobStatus]:
        """Return the caller's jobs that fit, newest first, at most *limit*.

        Whose role lets them see others' may ask for those of another *owner*, or of
        everybody (`*`); for who may not that is a `PermissionDenied`.
        """
        wanted = tuple(map(JobState, states))
        found: list[JobStatus] = []
        before = None

        while limit is None or len(found) < limit:
            page = MAX_PAGE if limit is None else min(MAX_PAGE, limit - len(found))
            request = ListRequest(
                0, wanted, name, dict(labels or {}), page, before, owner
            )
            response = await self._link.ask(request, ListResponse)
            found += response.jobs

            if not response.more or not response.jobs:
                break

            before = response.jobs[-1].id

        return found

    async def top(
        self,
        jobs: Iterable[str] = (),
        *,
        interval: float = 1.0,
        owner: str | None = None,
    ) -> AsyncGenerator[Sample, None]:
        """Yield what *jobs*, or all of the caller's that run, use each *interval* s.

        Ends when all of the *jobs* that were named have ended; without names it goes
        on. The first sample comes at once, and has no rates. *owner* is as with `list`.
        """
        request = TopRequest(0, tuple(jobs), interval, owner=owner)

        async with aclosing(self.samples(request)) as samples:
            async for sample in samples:
                yield sample

    async def samples(self, request: TopRequest) -> AsyncGenerator[Sample, None]:
        """Yield what comes for *request*, as `top` does."""
        # What a name or prefix stands for now may be another job after an outage.
        ids = [await self.job(ref).resolve() for ref in request.jobs]
        rates = Rates()

        async with aclosing(
            watch_use(self._link, replace(request, jobs=tuple(ids)))
        ) as samples:
            async for at, statuses in samples:
                yield rates.sample(at, statuses)

    async def events(
        self, *, since: int = 0, follow: bool = True, owner: str | None = None
    ) -> AsyncGenerator[News, None]:
        """Yield what has become of jobs after the number *since*, in order, each once.

        With *follow* it goes on, over lost connections and restarts of the server too;
        without, it ends at what there is now. `News.upto` is what to give as *since* to
        go on later. *owner* is as with `list`.
        """
        request = EventsRequest(0, since, follow, owner)

        async with aclosing(follow_news(self._link, request)) as news:
            async for each in news:
                yield each

    async def info(self) -> InfoResponse:
        """Return what the server says about itself."""
        return await self._link.ask(InfoRequest(0), InfoResponse)
