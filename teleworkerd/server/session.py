"""One client: its transport, its protocol state, its requests under way."""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol, cast

from teleworkerd import __version__
from teleworkerd.config import Config
from teleworkerd.counters import Counters, Dismissal, Refusal
from teleworkerd.execution import Caller
from teleworkerd.protocol.connection import ServerConnection
from teleworkerd.protocol.errors import (
    ConnectionClosed,
    PermissionDenied,
    ProtocolViolation,
    RemoteProtocolError,
    RequestError,
    TooMany,
    Unavailable,
)
from teleworkerd.protocol.messages import (
    ALPN,
    Cancel,
    ClientHello,
    Credit,
    InputData,
    Message,
    Ping,
    Request,
)
from teleworkerd.protocol.responses import ErrorResponse, Goaway
from teleworkerd.protocol.roles import Rejected
from teleworkerd.server.auth import Principal, authenticate
from teleworkerd.server.certificates import format_moment
from teleworkerd.server.deadline import Deadline
from teleworkerd.server.intake import Hold, Intake
from teleworkerd.server.peer import UNKNOWN, bound_kernel_buffer, is_gone, peer_of
from teleworkerd.server.refusals import Refusals


log = logging.getLogger(__name__)

SOFTWARE: Final = f"teleworkerd {__version__}"

_LOOK: Final = 60.0  # seconds at most until a certificate is looked at again


InputSink = Callable[[InputData], None]


class Dispatch(Protocol):
    """Answers one request; returns when the last response has been sent."""

    def __call__(
        self, session: "Session", request: Request
    ) -> Coroutine[Any, Any, None]:
        """Return the coroutine that does it."""


class Registry(Protocol):
    """Knows all sessions, and what they may have together."""

    def came(self, session: "Session") -> None:
        """Take *session* in; nobody knows yet whose it is."""

    def admit(self, session: "Session") -> None:
        """Let its client in; raises `PermissionDenied`, `TooMany`, `Unavailable`."""

    def begin(self, session: "Session", request: Request) -> None:
        """Let its client have *request* done; raises `TooMany`."""

    def end(self, session: "Session", request: Request) -> None:
        """Note that nothing is done for *request* any more."""

    def left(self, session: "Session") -> None:
        """Forget *session*, whose connection is gone."""


class Session(asyncio.Protocol):
    """Authenticates the client, then hands its requests to *dispatch*.

    *arrived* is called when the handshake is done, the *registry* at once. `is_lost`
    says that the transport is gone.
    """

    def __init__(  # noqa: PLR0913 - all that it works with
        self,
        config: Config,
        dispatch: Dispatch,
        registry: Registry,
        *,
        arrived: Callable[[], None],
        counters: Counters,
        refusals: Refusals,
    ) -> None:
        self.principal = Principal("")
        self._config = config
        self._dispatch = dispatch
        self._registry = registry
        self._arrived = arrived
        self._counters = counters
        self._refusals = refusals
        self._transport: asyncio.Transport
        self._connection: ServerConnection
        self._intake: Intake
        self._peer = UNKNOWN
        self._requests: dict[int, asyncio.Task[None]] = {}
        self._credited: dict[int, asyncio.Event] = {}
        self._inputs: dict[int, InputSink] = {}
        self._writable = asyncio.Event()
        self._writable.set()
        self.is_lost = False
        self._is_closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._idle = Deadline(config.server.idle_timeout, self._nothing_asked)

    def __str__(self) -> str:
        return f"{self.principal.name}@{self._peer}"

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the client, or refuse it with the reason."""
        self._arrived()
        self._transport = cast("asyncio.Transport", transport)
        self._peer = peer_of(transport.get_extra_info("peername"))
        limits = self._config.server
        self._intake = Intake(self._transport, limits, late=self._frame_missing)
        send_buffer = self._config.output.send_buffer
        self._transport.set_write_buffer_limits(high=send_buffer)
        bound_kernel_buffer(transport, send_buffer)
        self._registry.came(self)

        try:
            self._authenticate()
            self._registry.admit(self)
        except (PermissionDenied, TooMany, Unavailable) as error:
            kind = self._kind_of(error)
            self._refusals.tell(self._peer, kind, str(error), by=self.caller)
            self._connection = ServerConnection.refusing(error)
            self._flush()
            self.close()
            return

        self._connection = ServerConnection(
            name=self.principal.name, server=SOFTWARE, time=time.time_ns()
        )
        self._flush()
        self._later(limits.hello_timeout, self._hello_missing)

    def data_received(self, data: bytes) -> None:
        """Feed the protocol, and act on the messages that it yields."""
        self._connection.receive_data(data)

        try:
            for message in self._connection.events():
                self._accept(message)
        except (RemoteProtocolError, RequestError) as error:
            log.warning("%s broke the protocol: %s", self, error)
            self._counters.dismissals[Dismissal.PROTOCOL] += 1
            self._flush()
            self.close()
        else:
            self._flush()

            if self._intake.took(self._connection):
                self._counters.throttled += 1
                log.info("%s sends too many messages: it is not always read", self)

    def pause_writing(self) -> None:
        """Hold back senders: the client is slow to read."""
        self._writable.clear()
        # Who does not take the answers shall not ask for more.
        self._intake.hold(Hold.SLOW)

    def resume_writing(self) -> None:
        """Let senders go on."""
        self._writable.set()
        self._intake.release(Hold.SLOW)

    def connection_lost(self, exc: Exception | None) -> None:
        """End every request of the client that has gone."""
        self.is_lost = True
        self._connection.close()
        self._writable.set()
        self._intake.close()
        self._idle.close()

        if self._timer is not None:
            self._timer.cancel()

        for task in self._requests.values():
            task.cancel()

        log.debug("%s is gone: %s", self, exc or "closed")
        self._registry.left(self)

    # What handlers call

    async def send(self, message: Message) -> None:
        """Send *message*, and wait for a slow client; raises `ConnectionClosed`."""
        await self.room()
        self._connection.send(message)
        self._flush()
        await self.room()

    async def room(self) -> None:
        """Wait for a slow client; raises `ConnectionClosed`.

        Who makes something large for it waits before: it would be held meanwhile.
        """
        self._check_open()

        # Of all who wait, the first may fill the buffer again.
        while not self._writable.is_set():
            await self._writable.wait()
            self._check_open()

    async def credit(self, request_id: int) -> int:
        """Wait until output may be sent; return how many bytes."""
        event = self._credited.setdefault(request_id, asyncio.Event())

        while True:
            await self.room()

            if credit := self._connection.credit(request_id):
                return credit

            event.clear()
            await event.wait()

    @contextmanager
    def receiving(self, request_id: int, sink: InputSink) -> Iterator[None]:
        """Give what comes for that input request to *sink*, within the context."""
        self._inputs[request_id] = sink

        try:
            yield
        finally:
            del self._inputs[request_id]

    # What the owner of all sessions calls

    @property
    def caller(self) -> Caller:
        """The client, as the audit log has it."""
        return Caller(self.principal.name, self.principal.serial, str(self._peer))

    @property
    def requests(self) -> tuple[asyncio.Task[None], ...]:
        """What is under way for the client."""
        return tuple(self._requests.values())

    def say_goodbye(self, message: str) -> None:
        """Tell the client that the server ends, and close."""
        if not self._is_closing:
            self._connection.send(Goaway(message))
            self._flush()
            self.close()

    def dismiss(self, error: RequestError, why: Dismissal = Dismissal.ACCESS) -> None:
        """Tell the client that it is not welcome any more, and close."""
        if self._is_closing:
            return

        self._refusals.dismissed(self.caller, f"{self} has to go: {error}")
        self._counters.dismissals[why] += 1
        self._refuse(error)

    def abort(self) -> None:
        """End the connection now, whatever has not been sent."""
        self._transport.abort()

    def close(self) -> None:
        """Close after what has been sent; by force when that takes too long."""
        if self._is_closing:
            return

        self._is_closing = True
        self._connection.close()
        self._transport.close()
        # A peer that sends FIN and stops reading would otherwise stay for ever.
        self._later(self._config.server.close_timeout, self._transport.abort)

    def _authenticate(self) -> None:
        tls: ssl.SSLObject = self._transport.get_extra_info("ssl_object")

        if tls.selected_alpn_protocol() != ALPN:
            raise PermissionDenied(f"the client does not speak {ALPN} (ALPN)")

        self.principal = authenticate(tls)

    def _accept(self, message: Message) -> None:
        match message:
            case ClientHello():
                log.info("%s connected, with %r", self, message.agent)
                self._look_again()
                self._idle.begin()
            case Request():
                self._start(message)
            case Rejected(request_id, error):
                self._connection.send(error_response(request_id, error))
            case Credit(request_id):
                if event := self._credited.get(request_id):
                    event.set()
            case InputData(request_id):
                if sink := self._inputs.get(request_id):
                    sink(message)
            case Cancel(request_id):
                if task := self._requests.get(request_id):
                    # Later: a task that has not begun could not answer.
                    asyncio.get_running_loop().call_soon(task.cancel)
            case _:
                pass

    def _start(self, request: Request) -> None:
        try:
            self._registry.begin(self, request)
        except TooMany as error:
            self._connection.send(error_response(request.id, error))
            self._counters.requests[request.type, error.code] += 1
            return

        self._idle.end()
        task = asyncio.create_task(self._dispatch(self, request))
        self._requests[request.id] = task
        task.add_done_callback(lambda task: self._finished(request, task))

    def _finished(self, request: Request, task: asyncio.Task[None]) -> None:
        self._registry.end(self, request)

        # A client may use the id again as soon as it has the response.
        if self._requests.get(request.id) is task:
            del self._requests[request.id]
            self._credited.pop(request.id, None)

        if not self._requests and not self.is_lost:
            self._idle.begin()

    def _refuse(self, error: RequestError) -> None:
        if not self._is_closing:
            self._connection.send(error_response(None, error))
            self._flush()
            self.close()

    def _flush(self) -> None:
        pieces = self._connection.data_to_send()

        if pieces and not self.is_lost and not is_gone(self._transport):
            self._transport.writelines(pieces)

    def _check_open(self) -> None:
        if self.is_lost or self._is_closing:
            raise ConnectionClosed(f"{self} is gone")

    def _kind_of(self, error: RequestError) -> Refusal:
        if not isinstance(error, PermissionDenied):
            return Refusal.CROWDED

        return Refusal.ACCESS if self.principal.name else Refusal.IDENTITY

    def _hello_missing(self) -> None:
        reason = f"{self.principal.name} sent no hello"
        self._refusals.tell(self._peer, Refusal.SILENT, reason, by=self.caller)
        self._refuse(ProtocolViolation("no hello came in time"))

    def _frame_missing(self) -> None:
        seconds = self._config.server.frame_timeout
        late = ProtocolViolation(f"a frame was not whole after {seconds:g} s")
        self.dismiss(late, Dismissal.PROTOCOL)

    def _nothing_asked(self) -> None:
        if not self._is_closing:
            seconds = self._config.server.idle_timeout
            log.info("%s asked nothing for %g s: sent away", self, seconds)
            self._counters.dismissals[Dismissal.IDLE] += 1
            self.say_goodbye(f"nothing was asked for {seconds:g} s")

    def _check_alive(self) -> None:
        limits = self._config.server

        if time.time() > self.principal.expires_at:
            at = format_moment(self.principal.expires_at)
            error = PermissionDenied(f"your certificate has expired at {at}")
            self.dismiss(error, Dismissal.EXPIRED)
            return

        if is_gone(self._transport):
            # The loop does not tell, as long as it has something for the client.
            self.close()
            return

        silence = self._intake.silence

        if silence >= limits.ping_timeout:
            log.info("%s was silent for %.0f s: dropped", self, silence)
            self._counters.dismissals[Dismissal.SILENT] += 1
            self.abort()
            return

        if silence >= limits.ping_interval:
            self._connection.send(Ping())
            self._flush()

        self._look_again()

    def _look_again(self) -> None:
        interval = min(self._config.server.ping_interval, _LOOK)
        self._later(interval, self._check_alive)

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()

        self._timer = asyncio.get_running_loop().call_later(seconds, action)


def error_response(request_id: int | None, error: RequestError) -> ErrorResponse:
    """Return *error* as it goes over the wire."""
    return ErrorResponse(
        code=error.code, message=error.message, id=request_id, details=error.details
    )
