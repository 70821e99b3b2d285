"""The library: a server as `Client`, its jobs as `RemoteJob`."""

import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Final, Self

from teleworkerd.protocol.messages import (
    MAX_PAGE,
    DoneResponse,
    InfoRequest,
    InfoResponse,
    KillRequest,
    ListRequest,
    ListResponse,
    OutputRequest,
    RunRequest,
    RunResponse,
    StatusRequest,
    StatusResponse,
    StopRequest,
    WaitRequest,
)
from teleworkerd.protocol.types import JobSpec, JobState, JobStatus, Stream
from twctl.link import RETRY_FOR, Link
from twctl.profile import Profile, Settings, load_profile
from twctl.spec import Argument, build_spec
from twctl.subscription import Chunk


SIGKILL: Final = 9
DEFAULT_GRACE: Final = 10.0  # seconds

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

    Every method raises `JobNotFound` when there is no such job of the caller's.
    """

    def __init__(self, link: Link, ref: str) -> None:
        self._link = link
        self.id = ref

    def __repr__(self) -> str:
        return f"RemoteJob({self.id!r})"

    async def status(self) -> JobStatus:
        """Return the job as it is now."""
        return (await self._link.ask(StatusRequest(0, self.id), StatusResponse)).status

    async def wait(self) -> JobStatus:
        """Return the job's last status, when it has ended."""
        return (await self._link.ask(WaitRequest(0, self.id), StatusResponse)).status

    async def kill(self, signal: int = SIGKILL, *, tree: bool = False) -> bool:
        """Send a signal; return False when the job had ended already.

        SIGKILL goes to the whole tree, another to the main process unless
        *tree*. Any but SIGKILL is sent at most once: a connection lost meanwhile
        is a `ConnectionClosed`.
        """
        request = KillRequest(0, self.id, int(signal), tree)
        again = signal == SIGKILL
        return not (
            await self._link.ask(request, DoneResponse, again=again)
        ).already_ended

    async def stop(self, grace: float | None = DEFAULT_GRACE) -> bool:
        """Send SIGTERM to the tree and, *grace* seconds later, SIGKILL.

        None waits for ever. Returns False when the job had ended already.
        """
        request = StopRequest(0, self.id, grace)
        return not (await self._link.ask(request, DoneResponse)).already_ended

    async def output(
        self,
        stream: Stream | str = Stream.STDOUT,
        *,
        offset: int = 0,
        follow: bool = True,
    ) -> AsyncGenerator[Chunk, None]:
        """Yield a stream's bytes from *offset* on, each once, in order.

        With *follow* it goes on until the job has ended and all is read, over
        lost connections too; without, it ends at what there is now. Raises
        `OffsetOutOfRange` when the stream does not hold the offset.
        """
        request = OutputRequest(0, self.id, Stream(stream), offset, follow)

        async with aclosing(self._link.read(request)) as items:
            async for item in items:
                if isinstance(item, Chunk):
                    yield item


class Client:
    """A server, as one of its users sees it.

    Connects on `async with`, which raises `ConnectionClosed` when it cannot.
    Later losses of the connection are mended: what waits goes on waiting for
    *retry_for* seconds (0: fails at once), and *notice* is called with a
    sentence for each outage.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        retry_for: float = RETRY_FOR,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        self._link = Link(profile, retry_for=retry_for, notice=notice)

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
        env: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
        workdir: Argument | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the job's, not this call's
        request_id: str | None = None,
    ) -> RemoteJob:
        """Start a command, without a shell, and return its job.

        *mem* is in megabytes, *cpu* and *io* in percent, *timeout* in seconds.
        A lost connection never starts it twice; to be as safe across calls,
        give the same *request_id* again. Raises `LaunchFailed`,
        `LimitRejected`, `NameTaken` and other `RequestError`.
        """
        spec = build_spec(
            argv,
            mem=mem,
            cpu=cpu,
            io=io,
            env=env,
            workdir=workdir,
            name=name,
            labels=labels,
            timeout=timeout,
        )
        return await self.start(spec, request_id=request_id)

    async def start(self, spec: JobSpec, *, request_id: str | None = None) -> RemoteJob:
        """Start the job that *spec* describes, as `run` does."""
        request = RunRequest(0, request_id or os.urandom(16).hex(), spec)
        response = await self._link.ask(request, RunResponse)
        return RemoteJob(self._link, response.job)

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
    ) -> list[JobStatus]:
        """Return the caller's jobs that fit, newest first, at most *limit*."""
        wanted = tuple(map(JobState, states))
        found: list[JobStatus] = []
        before = None

        while limit is None or len(found) < limit:
            page = MAX_PAGE if limit is None else min(MAX_PAGE, limit - len(found))
            request = ListRequest(0, wanted, name, dict(labels or {}), page, before)
            response = await self._link.ask(request, ListResponse)
            found += response.jobs

            if not response.more or not response.jobs:
                break

            before = response.jobs[-1].id

        return found

    async def info(self) -> InfoResponse:
        """Return what the server says about itself."""
        return await self._link.ask(InfoRequest(0), InfoResponse)
