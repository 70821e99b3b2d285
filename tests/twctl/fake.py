"""A server that answers from a dictionary, for the tests of the client."""

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import uvloop

from teleworkerd.protocol.codec import encode
from teleworkerd.protocol.connection import ServerConnection
from teleworkerd.protocol.errors import JobNotEnded, JobNotFound, RequestError
from teleworkerd.protocol.messages import (
    ALPN,
    Cancel,
    Credit,
    InfoRequest,
    InterleaveRequest,
    KillRequest,
    ListRequest,
    Message,
    OutputRequest,
    RemoveRequest,
    Request,
    Response,
    RunRequest,
    StatusRequest,
    StopRequest,
    WaitRequest,
)
from teleworkerd.protocol.responses import (
    DoneResponse,
    ErrorResponse,
    InfoResponse,
    ListResponse,
    RunResponse,
    StatusResponse,
)
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.types import JobState, Role
from tests.e2e.pki import Certificates
from tests.twctl.fake_output import JOB_ID, FakeJob, FakeReader
from twctl.credentials import read_credentials
from twctl.profile import Profile
from twctl.tls import client_context


OTHER_ID = "0123abcd-0000-4000-8000-000000000002"
THIRD_ID = "0123abcd-0000-4000-8000-000000000003"


@dataclass
class FakeServer:
    """What the server knows, and what shall go wrong.

    `cuts` holds for each connection in turn after how many bytes it is cut,
    `greetings` what it is refused with instead of a hello, if it is, or after one
    without a name where it `is_polite`; `errors` the error for a type of request,
    each used once.
    """

    jobs: dict[str, FakeJob] = field(default_factory=dict)
    cuts: list[int | None] = field(default_factory=list)
    greetings: list[RequestError | None] = field(default_factory=list)
    is_polite: bool = False
    errors: dict[type[Request], RequestError] = field(default_factory=dict)
    chunk_size: int = 64 << 10
    asked: list[Request] = field(default_factory=list)
    started: dict[str, JobSpec] = field(default_factory=dict)
    connections: int = 0
    sessions: "list[FakeSession]" = field(default_factory=list)
    alpn: str = ALPN
    clock: int | None = None  # ns
    is_deaf: bool = False  # whether requests are left without a response
    farewell: RequestError | None = None  # said instead of the first response
    started_as: str = JOB_ID  # the ID of a job that is started
    name: str = "alice"  # whom it says that it sees
    role: Role = Role.USER
    accounts: tuple[str, ...] = ()

    waiting: list[asyncio.Future[None]] = field(default_factory=list)

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Return when *predicate* holds; looks again after all that arrives."""
        async with asyncio.timeout(10):
            while not predicate():
                await self.heard()

    async def heard(self) -> None:
        """Return when something has arrived from a client on this loop."""
        future = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        await future

    def wake(self) -> None:
        """Have all sessions look at their jobs again; from any thread."""
        for session in self.sessions:
            session.loop.call_soon_threadsafe(session.wake)

    def drop(self) -> None:
        """Cut all connections; from any thread."""
        for session in self.sessions:
            if session.transport is not None:
                session.loop.call_soon_threadsafe(session.transport.abort)

    def dismiss(self, error: RequestError) -> None:
        """End all connections with *error*; from any thread."""
        for session in self.sessions:
            session.loop.call_soon_threadsafe(session.dismiss, error)

    def context(self, certs: Certificates) -> ssl.SSLContext:
        """Return the TLS settings of a strict server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        identity = certs.of("server")
        context.load_cert_chain(identity.cert, identity.key)
        context.load_verify_locations(certs.ca)
        context.verify_mode = ssl.CERT_REQUIRED
        context.set_alpn_protocols([self.alpn])
        return context

    async def listen(self, certs: Certificates, port: int = 0) -> asyncio.Server:
        """Serve on the loopback interface."""
        loop = asyncio.get_running_loop()
        return await loop.create_server(
            lambda: FakeSession(self), "127.0.0.1", port, ssl=self.context(certs)
        )

    def answer(self, request: Request) -> Message | None:
        """Return the response, or None when it comes later."""
        error = self.errors.pop(type(request), None)

        if self.is_deaf:
            return None

        if error is not None:
            return _refuse(request, error)

        match request:
            case RunRequest(number, request_id, spec):
                created = request_id not in self.started
                self.started[request_id] = spec
                return RunResponse(number, self.started_as, created)
            case ListRequest(number, states, _, _, limit, before):
                return self._list(number, states, limit, before)
            case InfoRequest(number):
                return InfoResponse(
                    *(number, "1.0", self.name, 0, 0, 1, "v1", {}, {}, 1),
                    (0.5, 0.25, 0.0),
                    self.role,
                    self.accounts,
                )
            case (
                StatusRequest()
                | WaitRequest()
                | KillRequest()
                | StopRequest()
                | RemoveRequest()
            ):
                return self._about_job(request, request.job)
            case _:
                raise AssertionError(request)

    def find(self, ref: str) -> FakeJob | None:
        """Return the job with this name, or else this id."""
        by_id = {job.status.id: job for job in self.jobs.values()}
        return self.jobs.get(ref) or by_id.get(ref)

    def _about_job(self, request: Request, ref: str) -> Message | None:
        job = self.find(ref)

        if job is None:
            return _refuse(request, JobNotFound(f"there is no job {ref}"))

        match request:
            case StatusRequest(number):
                return StatusResponse(number, job.told())
            case WaitRequest(number):
                done = job.status.state.is_final
                return StatusResponse(number, job.told()) if done else None
            case RemoveRequest(number) if not job.status.state.is_final:
                return _refuse(request, JobNotEnded(f"job {ref} has not ended"))
            case RemoveRequest(number):
                self.jobs = {r: j for r, j in self.jobs.items() if j is not job}
                return DoneResponse(number, job.status.id)
            case _:
                return DoneResponse(request.id, ref, job.status.state.is_final)

    def _list(
        self, number: int, states: tuple[JobState, ...], limit: int, before: str | None
    ) -> Response:
        found = [
            job.status
            for job in self.jobs.values()
            if not states or job.status.state in states
        ]
        ids = [status.id for status in found]
        start = ids.index(before) + 1 if before else 0
        page = found[start : start + limit]
        return ListResponse(number, tuple(page), more=start + limit < len(found))


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _refuse(request: Request, error: RequestError) -> ErrorResponse:
    return ErrorResponse(error.code, error.message, request.id, error.details)


class FakeSession(asyncio.Protocol):
    """One connection to the fake server."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.connection = ServerConnection(
            name="alice", server="fake", time=server.clock
        )
        self.transport: asyncio.Transport | None = None
        self.outputs: dict[int, FakeReader] = {}
        self.written = 0
        self.cut: int | None = None
        self.loop = asyncio.get_running_loop()

    def wake(self) -> None:
        for number in list(self.outputs):
            self.pump(number)

        self.flush()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is its own
        self.server.sessions.append(self)
        self.server.connections += 1

        if self.server.cuts:
            self.cut = self.server.cuts.pop(0)

        if self.server.greetings and (error := self.server.greetings.pop(0)):
            hello = ServerConnection(name="", server="fake").data_to_send()
            self.connection.data_to_send()

            if self.server.is_polite:
                self.transport.writelines(hello)

            self.dismiss(error)
        else:
            self.flush()

    def dismiss(self, error: RequestError) -> None:
        assert self.transport is not None
        last = ErrorResponse(error.code, error.message, details=error.details)
        self.connection.close()
        self.transport.writelines(encode(last))
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        self.connection.receive_data(data)

        for message in self.connection.events():
            self.accept(message)

        self.flush()
        waiting, self.server.waiting = self.server.waiting, []

        for future in waiting:
            if not future.done():
                future.get_loop().call_soon_threadsafe(_resolve, future)

    def accept(self, message: Message) -> None:
        match message:
            case Request() if self.server.farewell is not None:
                farewell = self.server.farewell
                self.connection.send(ErrorResponse(farewell.code, farewell.message))
            case OutputRequest(number, ref) | InterleaveRequest(number, ref):
                self.server.asked.append(message)
                job = self.server.find(ref)
                error = self.server.errors.pop(type(message), None)

                if job is None or error is not None:
                    error = error or JobNotFound(f"there is no job {ref}")
                    self.connection.send(_refuse(message, error))
                    return

                self.outputs[number] = FakeReader(job, message)
                self.connection.send(self.outputs[number].opened())
                self.pump(number)
            case Request():
                self.server.asked.append(message)
                response = self.server.answer(message)

                if response is not None:
                    self.connection.send(response)
            case Credit(number):
                self.pump(number)
            case Cancel(number) if number in self.outputs:
                self.connection.send(self.outputs.pop(number).stopped())
            case _:
                pass

    def pump(self, number: int) -> None:
        if number not in self.outputs:
            return

        reader = self.outputs[number]

        while piece := reader.next(self._room(number)):
            self.connection.send(piece)

        if not reader.has_more() and (end := reader.end()):
            del self.outputs[number]
            self.connection.send(end)

    def _room(self, number: int) -> int:
        return min(self.server.chunk_size, self.connection.credit(number))

    def flush(self) -> None:
        assert self.transport is not None
        data = b"".join(self.connection.data_to_send())

        if self.cut is not None and self.written + len(data) >= self.cut:
            self.transport.write(data[: self.cut - self.written])
            self.transport.close()
            self.connection.close()
            self.written = self.cut
            return

        self.written += len(data)
        self.transport.write(data)


def profile_of(
    address: tuple[str, int], certs: Certificates, name: str = "alice"
) -> Profile:
    """Return how *name* speaks to the server at *address*."""
    identity = certs.of(name)
    return Profile(*address, certs.ca, identity.cert, identity.key)


def context_of(profile: Profile) -> ssl.SSLContext:
    """Return what `twctl` makes of the files of *profile*."""
    return client_context(read_credentials(profile))


@contextmanager
def serving(
    server: FakeServer, certs: Certificates, trusted: Certificates | None = None
) -> Iterator[Profile]:
    """Serve in a thread, for clients that block; gives the profile for it.

    The client's files are those of *trusted*, where that is not *certs*.
    """
    ready = threading.Event()
    address: list[tuple[str, int]] = []
    stops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        stop = asyncio.Event()
        stops.append((asyncio.get_running_loop(), stop))

        async with await server.listen(certs) as listener:
            address.append(listener.sockets[0].getsockname())
            ready.set()
            await stop.wait()

            for session in server.sessions:
                if session.transport is not None:
                    session.transport.abort()

    def work() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(10)

    try:
        yield profile_of(address[0], trusted or certs)
    finally:
        loop, stop = stops[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
