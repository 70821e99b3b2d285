"""What each request does: a few lines each, the work is done by the jobs."""

import asyncio
import errno
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from teleworkerd import __version__
from teleworkerd.ceilings import named_ceilings, named_defaults
from teleworkerd.counters import Counters
from teleworkerd.execution import Caller
from teleworkerd.jobs.job import Job
from teleworkerd.jobs.manager import JobManager
from teleworkerd.keeper.messages import Welcome
from teleworkerd.output.subscription import Reading
from teleworkerd.protocol.errors import (
    InvalidRequest,
    LimitRejected,
    PermissionDenied,
    TooMany,
)
from teleworkerd.protocol.messages import (
    EventsRequest,
    InfoRequest,
    InputRequest,
    InterleaveRequest,
    KillRequest,
    ListRequest,
    Message,
    OutputRequest,
    RemoveRequest,
    Request,
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
    InterleaveEnd,
    InterleaveResponse,
    ListResponse,
    OutputChunk,
    OutputEnd,
    OutputGap,
    OutputResponse,
    RunResponse,
    StatusResponse,
)
from teleworkerd.protocol.types import Chunk, Gap, Piece, Stream
from teleworkerd.server.access import Access, Right
from teleworkerd.server.events import send_news
from teleworkerd.server.input import receive_input
from teleworkerd.server.pages import Page
from teleworkerd.server.session import Session
from teleworkerd.server.top import top as send_samples
from teleworkerd.server.trail import Trail
from teleworkerd.spare import lack_of


Handler = Callable[["Service", "Call", Any], Awaitable[Message]]

_LACKING: Final = 0.5  # seconds until what lacked a descriptor is tried again


@dataclass(frozen=True, slots=True)
class Service:
    """What handlers work with."""

    manager: JobManager
    access: Access
    trail: Trail
    welcome: Welcome
    connections: Callable[[], int]
    counters: Counters
    accounts: Callable[[str], tuple[str, ...]] = lambda _: ()
    keeper_open_files: Callable[[], int] = lambda: 0
    started_at: int = field(default_factory=time.time_ns)
    readings: set[tuple[Job, Reading]] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Call:
    """Who asks, and under which request id."""

    session: Session
    id: int

    @property
    def owner(self) -> str:
        """The name that the caller's jobs belong to."""
        return self.session.principal.name

    @property
    def by(self) -> Caller:
        """The caller, as the audit log has it."""
        return self.session.caller


async def run(service: Service, call: Call, request: RunRequest) -> Message:
    """Start a job."""
    try:
        service.access.check(call.owner, Right.START)
        _check_account(service, call, request.spec.user)
        job, created = await service.manager.run(
            request.spec, owner=call.owner, request_id=request.request_id, by=call.by
        )
    except (LimitRejected, PermissionDenied, TooMany) as error:
        # Of a job that came to be, the keeper tells.
        if "job" not in error.details:
            service.trail.refused(call.by, request.type, error)

        raise

    return RunResponse(call.id, job.id, created, job.facts.not_applied)


def _job(service: Service, call: Call, request: Any, right: Right) -> Job:
    """Return the job of *request*, which needs *right* on it."""
    return service.access.job(request.job, call.by, right, what=request.type)


def _check_account(service: Service, call: Call, user: str | None) -> None:
    """Say at once what the keeper would refuse, too; raises `PermissionDenied`."""
    granted = service.accounts(call.owner)

    if user is not None and granted and user not in granted:
        raise PermissionDenied(
            f"account {user} is not granted to {call.owner}; granted:"
            f" {', '.join(granted)}",
            {"user": user},
        )


async def status(service: Service, call: Call, request: StatusRequest) -> Message:
    """Tell about one job."""
    job = _job(service, call, request, Right.SEE)
    return StatusResponse(call.id, await service.manager.sampler.status_of(job))


async def wait(service: Service, call: Call, request: WaitRequest) -> Message:
    """Tell about one job once it has ended."""
    job = _job(service, call, request, Right.SEE)
    return StatusResponse(call.id, await job.wait())


async def list_jobs(service: Service, call: Call, request: ListRequest) -> Message:
    """Tell about many jobs, as many as one frame is sure to hold."""
    owner = service.access.owner_to_list(call.by, request.owner)
    await call.session.room()
    page = Page(request.limit)

    for job in service.manager.list(
        owner=owner,
        states=request.states,
        name=request.name,
        labels=request.labels,
        before=request.before,
    ):
        if not page.add(job):
            return ListResponse(call.id, tuple(page.jobs), more=True)

    return ListResponse(call.id, tuple(page.jobs))


async def top(service: Service, call: Call, request: TopRequest) -> Message:
    """Tell what jobs use, again and again."""
    return await send_samples(service.manager, service.access, call.session, request)


async def events(service: Service, call: Call, request: EventsRequest) -> Message:
    """Tell what has become of jobs."""
    return await send_news(
        service.manager.events, service.access, call.session, request
    )


async def kill(service: Service, call: Call, request: KillRequest) -> Message:
    """Send a signal to a job."""
    job = _job(service, call, request, Right.END)

    if job.has_exited:
        return DoneResponse(call.id, job.id, already_ended=True)

    service.manager.signal(job, request.signal, tree=request.tree, by=call.by)
    await service.manager.launched(job)
    return DoneResponse(call.id, job.id)


async def stop(service: Service, call: Call, request: StopRequest) -> Message:
    """Begin to end a job."""
    job = _job(service, call, request, Right.END)

    if job.has_exited:
        return DoneResponse(call.id, job.id, already_ended=True)

    service.manager.stop(job, grace=request.grace, by=call.by)
    await service.manager.launched(job)
    return DoneResponse(call.id, job.id)


async def receive(service: Service, call: Call, request: InputRequest) -> Message:
    """Pass on what a client sends to a job's stdin."""
    job = _job(service, call, request, Right.SEND)
    return await receive_input(job, call.session, request)


async def resize(service: Service, call: Call, request: ResizeRequest) -> Message:
    """Change the size of a job's terminal."""
    job = _job(service, call, request, Right.SEND)

    if not job.facts.tty:
        raise InvalidRequest(
            f"job {job.id} has no terminal; start it with -t for one", {"job": job.id}
        )

    if not job.has_exited:
        job.act(lambda execution: execution.resize(request.size))
        await service.manager.launched(job)

    return DoneResponse(call.id, job.id, already_ended=job.has_exited)


async def remove(service: Service, call: Call, request: RemoveRequest) -> Message:
    """Remove a job that has ended."""
    job = _job(service, call, request, Right.REMOVE)
    await service.manager.remove(job, by=call.by)
    return DoneResponse(call.id, job.id)


async def output(service: Service, call: Call, request: OutputRequest) -> Message:
    """Send a stream from an offset on, as far as the client gives credit."""
    job = _job(service, call, request, Right.SEE)

    with job.subscribe(
        {request.stream: request.offset},
        follow=request.follow,
        since=request.since,
        until=request.until,
        times=request.times,
    ) as reading:
        opened = OutputResponse(call.id, job.id, reading.offsets[request.stream])
        await call.session.send(opened)
        complete = await _pump(service, call, job, reading)
        complete = complete and _has_all(job, reading)
        status = job.status if complete else None
        offset = reading.offsets[request.stream]
        return OutputEnd(call.id, offset, complete=complete, status=status)


async def interleave(
    service: Service, call: Call, request: InterleaveRequest
) -> Message:
    """Send both streams in order, as far as the client gives credit."""
    job = _job(service, call, request, Right.SEE)

    with job.subscribe(
        {Stream.STDOUT: request.stdout, Stream.STDERR: request.stderr},
        follow=request.follow,
        since=request.since,
        until=request.until,
        times=request.times,
    ) as reading:
        offsets = reading.offsets
        await call.session.send(
            InterleaveResponse(
                call.id, job.id, offsets[Stream.STDOUT], offsets[Stream.STDERR]
            )
        )
        complete = await _pump(service, call, job, reading, tell=True)
        complete = complete and _has_all(job, reading)
        offsets = reading.offsets
        return InterleaveEnd(
            call.id,
            offsets[Stream.STDOUT],
            offsets[Stream.STDERR],
            complete=complete,
            status=job.status if complete else None,
        )


async def _pump(
    service: Service, call: Call, job: Job, reading: Reading, *, tell: bool = False
) -> bool:
    """Send what *reading* gives of *job*; return whether it came to its end.

    *tell* the stream of each piece.
    """
    session = call.session
    service.readings.add((job, reading))

    try:
        while True:
            try:
                if not await reading.ready():
                    return True

                piece = reading.take(await session.credit(call.id))
            except OSError as error:
                if lack_of(error) is None:
                    raise

                # Who was let in keeps its place: the bytes are on the disk.
                await asyncio.sleep(_LACKING)
                continue

            if piece is not None:
                await session.send(_message(call.id, piece, tell=tell))

            if isinstance(piece, Chunk):
                service.counters.sent_bytes += len(piece.data)
    except asyncio.CancelledError:
        if session.is_lost:
            raise

        # By the client, whose request ends here and not in an error.
        return False
    finally:
        service.readings.discard((job, reading))


def _message(request_id: int, piece: Piece, *, tell: bool) -> Message:
    stream = piece.stream if tell else None

    if isinstance(piece, Gap):
        return OutputGap(request_id, piece.offset, piece.stop, stream)

    return OutputChunk(request_id, piece.offset, piece.data, stream, piece.times)


def _has_all(job: Job, reading: Reading) -> bool:
    return job.is_over and all(
        offset == job.size(stream) for stream, offset in reading.offsets.items()
    )


async def info(service: Service, call: Call, request: InfoRequest) -> Message:  # noqa: ARG001  every handler has the same form
    """Tell about the server."""
    limits = service.manager.config.limits
    return InfoResponse(
        call.id,
        version=__version__,
        name=call.owner,
        started_at=service.started_at,
        keeper_started_at=service.welcome.keeper_started_at,
        restarts=service.welcome.restarts,
        cgroups=service.welcome.cgroups,
        limits=service.welcome.limits,
        jobs=service.manager.counts(),
        connections=service.connections(),
        load=_load(),
        role=service.access.role(call.owner),
        accounts=service.accounts(call.owner),
        defaults=named_defaults(limits),
        ceilings=named_ceilings(limits),
        newest_event=service.manager.events.newest,
    )


def _load() -> tuple[float, float, float]:
    try:
        return os.getloadavg()
    except OSError as error:
        # It does not say why; it is a file that is read.
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE)) from error


HANDLERS: Final[Mapping[type[Request], Handler]] = {
    RunRequest: run,
    StatusRequest: status,
    WaitRequest: wait,
    ListRequest: list_jobs,
    KillRequest: kill,
    StopRequest: stop,
    RemoveRequest: remove,
    OutputRequest: output,
    InterleaveRequest: interleave,
    TopRequest: top,
    EventsRequest: events,
    InputRequest: receive,
    ResizeRequest: resize,
    InfoRequest: info,
}
