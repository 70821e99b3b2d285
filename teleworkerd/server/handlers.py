"""What each request does: a few lines each, the work is done by the jobs."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from teleworkerd import __version__
from teleworkerd.jobs.manager import JobManager
from teleworkerd.protocol.codec import dump_record
from teleworkerd.protocol.framing import MAX_FRAME
from teleworkerd.protocol.messages import (
    DoneResponse,
    InfoRequest,
    InfoResponse,
    KillRequest,
    ListRequest,
    ListResponse,
    Message,
    OutputChunk,
    OutputEnd,
    OutputRequest,
    OutputResponse,
    Request,
    RunRequest,
    RunResponse,
    StatusRequest,
    StatusResponse,
    StopRequest,
    WaitRequest,
)
from teleworkerd.protocol.shape import MAX_VALUES
from teleworkerd.protocol.types import JobStatus
from teleworkerd.server.session import Session


Handler = Callable[["Service", "Call", Any], Awaitable[Message]]

_STATUS_VALUES: Final = 128  # keys and values of a status, and room for more


@dataclass(frozen=True, slots=True)
class Service:
    """What handlers work with."""

    manager: JobManager
    cgroups: str
    limits: Mapping[str, str]
    connections: Callable[[], int]
    started_at: int = field(default_factory=time.time_ns)


@dataclass(frozen=True, slots=True)
class Call:
    """Who asks, and under which request id."""

    session: Session
    id: int

    @property
    def owner(self) -> str:
        """The name that the caller's jobs belong to."""
        return self.session.principal.name


async def run(service: Service, call: Call, request: RunRequest) -> Message:
    """Start a job."""
    job, created = await service.manager.run(
        request.spec, owner=call.owner, request_id=request.request_id
    )
    return RunResponse(call.id, job.id, created)


async def status(service: Service, call: Call, request: StatusRequest) -> Message:
    """Tell about one job."""
    job = service.manager.get(request.job, owner=call.owner)
    return StatusResponse(call.id, job.status)


async def wait(service: Service, call: Call, request: WaitRequest) -> Message:
    """Tell about one job once it has ended."""
    job = service.manager.get(request.job, owner=call.owner)
    return StatusResponse(call.id, await job.wait())


async def list_jobs(service: Service, call: Call, request: ListRequest) -> Message:
    """Tell about many jobs, as many as one frame is sure to hold."""
    page: list[JobStatus] = []
    size = values = 0

    for job in service.manager.list(
        owner=call.owner,
        states=request.states,
        name=request.name,
        labels=request.labels,
        before=request.before,
    ):
        size += len(dump_record(job))
        values += _STATUS_VALUES + len(job.command) + 2 * len(job.labels)

        if page and (
            len(page) == request.limit or size > MAX_FRAME // 2 or values > MAX_VALUES
        ):
            return ListResponse(call.id, tuple(page), more=True)

        page.append(job)

    return ListResponse(call.id, tuple(page))


async def kill(service: Service, call: Call, request: KillRequest) -> Message:
    """Send a signal to a job."""
    job = service.manager.get(request.job, owner=call.owner)

    if job.is_over:
        return DoneResponse(call.id, job.id, already_ended=True)

    service.manager.signal(job, request.signal, tree=request.tree)
    return DoneResponse(call.id, job.id)


async def stop(service: Service, call: Call, request: StopRequest) -> Message:
    """Begin to end a job."""
    job = service.manager.get(request.job, owner=call.owner)

    if job.is_over:
        return DoneResponse(call.id, job.id, already_ended=True)

    service.manager.stop(job, grace=request.grace)
    return DoneResponse(call.id, job.id)


async def output(service: Service, call: Call, request: OutputRequest) -> Message:
    """Send a stream from an offset on, as far as the client gives credit."""
    job = service.manager.get(request.job, owner=call.owner)

    with job.subscribe(
        request.stream, offset=request.offset, follow=request.follow
    ) as subscription:
        await call.session.send(OutputResponse(call.id, job.id, request.offset))

        try:
            while await subscription.ready():
                chunk = subscription.take(await call.session.credit(call.id))
                await call.session.send(OutputChunk(call.id, chunk.offset, chunk.data))
        except asyncio.CancelledError:
            if call.session.is_lost:
                raise

            # By the client, whose request ends here and not in an error.
            return OutputEnd(call.id, subscription.offset, complete=False)

    complete = job.is_over and subscription.offset == job.size(request.stream)
    return OutputEnd(
        call.id,
        subscription.offset,
        complete=complete,
        status=job.status if complete else None,
    )


async def info(service: Service, call: Call, request: InfoRequest) -> Message:  # noqa: ARG001  every handler has the same form
    """Tell about the server."""
    return InfoResponse(
        call.id,
        version=__version__,
        name=call.owner,
        started_at=service.started_at,
        cgroups=service.cgroups,
        limits=service.limits,
        jobs=service.manager.counts(),
        connections=service.connections(),
        load=os.getloadavg(),
    )


HANDLERS: Final[Mapping[type[Request], Handler]] = {
    RunRequest: run,
    StatusRequest: status,
    WaitRequest: wait,
    ListRequest: list_jobs,
    KillRequest: kill,
    StopRequest: stop,
    OutputRequest: output,
    InfoRequest: info,
}
