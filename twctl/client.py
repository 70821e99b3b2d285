"""The library: a server as `Client`; its jobs are in `job`."""

import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar

from teleworkerd.protocol.errors import JobNotFound
from teleworkerd.protocol.messages import (
    EventsRequest,
    InfoRequest,
    ListRequest,
    RunRequest,
    TopRequest,
)
from teleworkerd.protocol.responses import (
    InfoResponse,
    ListResponse,
    RunResponse,
)
from teleworkerd.protocol.spec import JobSpec, TerminalSize
from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import JobState, OnFull
from twctl.job import RemoteJob
from twctl.link import Link
from twctl.listing import Listing
from twctl.news import News
from twctl.profile import Profile, Settings, load_profile
from twctl.sampling import Rates, Sample
from twctl.spec import Argument, build_spec
from twctl.streams import follow_news, watch_use


Path = str | os.PathLike[str]

T = TypeVar("T")


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


class Client:
    """A server, as one of its users sees it.

    Connects on `async with`, which raises `ConnectionClosed` when it cannot, and
    `RuntimeError` within another one of the same client.
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
        self._is_entered = False

    async def __aenter__(self) -> Self:
        if self._is_entered:
            raise RuntimeError("the client is connected already; make another one")

        self._is_entered = True

        try:
            await self._link.open()
        except BaseException:
            self._is_entered = False
            raise

        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._link.close()
        finally:
            self._is_entered = False

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
        A lost connection never starts it twice. When this is cancelled, or raises
        `ConnectionClosed` after a long outage, it may have been started: the same
        *request_id* again gives that job, and starts none. Raises `LaunchFailed`,
        `LimitRejected`, `NameTaken`, `PermissionDenied`, `TooMany` and other
        `RequestError`, and a `TypeError` that names an argument of a wrong type.

        ::

            job = await client.run(
                ["sh", "-c", "make -j8 && make test"],
                mem=2048,
                timeout=3600,
                labels={"branch": "main"},
            )

            for limit, why in job.not_applied.items():
                print(f"{limit} is not in force: {why}")
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
        if request_id is None:
            request_id = os.urandom(16).hex()

        request = RunRequest(0, request_id, spec)
        response = await self._link.ask(request, RunResponse)
        return RemoteJob(self._link, response.job, not_applied=response.not_applied)

    def now(self) -> int:
        """Return what the server's clock shows, in ns since the epoch."""
        return self._link.now()

    def job(self, ref: str) -> RemoteJob:
        """Return the job with this id, unique prefix or name; asks nothing yet.

        ::

            status = await client.job("build").status()
        """
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

        ::

            for status in await client.list(states=["running"], limit=20):
                print(status.id, status.name, status.command)
        """
        wanted = tuple(map(JobState, _several("states", states)))
        request = ListRequest(0, wanted, name, dict(labels or {}), owner=owner)
        listing = Listing(request, limit)

        while (following := listing.next_request) is not None:
            try:
                listing.add(await self._link.ask(following, ListResponse))
            except JobNotFound:
                if not listing.go_back():
                    raise

        return listing.jobs

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

        ::

            async for sample in client.top(["build"], interval=0.5):
                for use in sample.jobs:
                    print(use.status.id, use.cpu_percent, use.status.usage)
        """
        refs = tuple(_several("jobs", jobs))
        request = TopRequest(0, refs, interval, owner=owner)

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

        ::

            seen = 0

            async for news in client.events(since=seen, follow=False):
                for each in news.jobs:
                    print(each.job, each.state)

                seen = news.upto
        """
        request = EventsRequest(0, since, follow, owner)

        async with aclosing(follow_news(self._link, request)) as news:
            async for each in news:
                yield each

    async def info(self) -> InfoResponse:
        """Return what the server says about itself.

        ::

            info = await client.info()
            print(info.version, info.role, info.accounts)
        """
        return await self._link.ask(InfoRequest(0), InfoResponse)


def _several(name: str, texts: Iterable[T]) -> Iterable[T]:
    # Python would take it letter by letter.
    if isinstance(texts, str):
        raise TypeError(f"{name} is one string; give a list")

    return texts
