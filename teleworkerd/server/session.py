"""One client: its transport, its protocol state, its requests under way."""

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol, cast

from teleworkerd import __version__
from teleworkerd.config import Config
from teleworkerd.counters import Counters, Refusal
from teleworkerd.protocol.connection import ServerConnection
from teleworkerd.protocol.errors import (
    ConnectionClosed,
    PermissionDenied,
    ProtocolViolation,
    RemoteProtocolError,
    RequestError,
    Unavailable,
)
from teleworkerd.protocol.messages import (
    ALPN,
    Cancel,
    ClientHello,
    Credit,
    ErrorResponse,
    Goaway,
    Message,
    Ping,
    Request,
)
from teleworkerd.protocol.roles import Rejected
from teleworkerd.server.auth import Principal, authenticate


log = logging.getLogger(__name__)

SOFTWARE: Final = f"teleworkerd {__version__}"

_GONE: Final = (7, 8)  # TCP_CLOSE and TCP_CLOSE_WAIT, as TCP_INFO begins


class Dispatch(Protocol):
    """Answers one request; returns when the last response has been sent."""

    def __call__(
        self, session: "Session", request: Request
    ) -> Coroutine[Any, Any, None]:
        """Return the coroutine that does it."""


class Session(asyncio.Protocol):
    """Authenticates the client, then hands its requests to *dispatch*.

    *opened* and *closed* tell the owner of all sessions, at once; *opened* may raise
    `Unavailable`. `is_lost` says that the transport is gone.
    """

    def __init__(
        self,
        config: Config,
        dispatch: Dispatch,
        *,
        opened: Callable[["Session"], None],
        closed: Callable[["Session"], None],
        counters: Counters,
    ) -> None:
        self.principal = Principal("", "")
        self._config = config
        self._dispatch = dispatch
        self._opened = opened
        self._closed = closed
        self._counters = counters
        self._transport: asyncio.Transport
        self._connection: ServerConnection
        self._peer = "?"
        self._requests: dict[int, asyncio.Task[None]] = {}
        self._credited: dict[int, asyncio.Event] = {}
        self._writable = asyncio.Event()
        self._writable.set()
        self.is_lost = False
        self._is_closing = False
        self._last_heard = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __str__(self) -> str:
        return f"{self.principal.name}@{self._peer}"

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the client, or refuse it with the reason."""
        self._transport = cast("asyncio.Transport", transport)
        self._peer = format_peer(transport.get_extra_info("peername"))
        limits = self._config.output
        self._transport.set_write_buffer_limits(high=limits.send_buffer)
        _bound_kernel_buffer(transport, limits.send_buffer)

        try:
            self._opened(self)
            self._authenticate()
        except (PermissionDenied, Unavailable) as error:
            log.warning("refused %s: %s", self._peer, error)
            self._counters.refusals[_refusal(error)] += 1
            self._connection = ServerConnection(name="", server=SOFTWARE)
            self._refuse(error)
            return

        self._connection = ServerConnection(
            name=self.principal.name, server=SOFTWARE, time=time.time_ns()
        )
        self._flush()
        self._later(self._config.server.hello_timeout, self._hello_missing)

    def data_received(self, data: bytes) -> None:
        """Feed the protocol, and act on the messages that it yields."""
        self._last_heard = asyncio.get_running_loop().time()
        self._connection.receive_data(data)

        try:
            for message in self._connection.events():
                self._accept(message)
        except (RemoteProtocolError, RequestError) as error:
            log.warning("%s broke the protocol: %s", self, error)
            self._flush()
            self.close()
        else:
            self._flush()

    def pause_writing(self) -> None:
        """Hold back senders: the client is slow to read."""
        self._writable.clear()
        # Who does not take the answers shall not ask for more.
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Let senders go on."""
        self._writable.set()
        self._last_heard = asyncio.get_running_loop().time()
        self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """End every request of the client that has gone."""
        self.is_lost = True
        self._connection.close()
        self._writable.set()

        if self._timer is not None:
            self._timer.cancel()

        for task in self._requests.values():
            task.cancel()

        log.debug("%s is gone: %s", self, exc or "closed")
        self._closed(self)

    # What handlers call

    async def send(self, message: Message) -> None:
        """Send *message*, waiting while the client is slow to read.

        Raises `ConnectionClosed` when it has gone.
        """
        self._check_open()
        self._connection.send(message)
        self._flush()
        await self._writable.wait()
        self._check_open()

    async def credit(self, request_id: int) -> int:
        """Wait until output may be sent; return how many bytes."""
        event = self._credited.setdefault(request_id, asyncio.Event())

        while True:
            # Of all who wait for a slow client, the first may fill the buffer again.
            while not self._writable.is_set():
                await self._writable.wait()

            if credit := self._connection.credit(request_id):
                return credit

            event.clear()
            await event.wait()

    # What the owner of all sessions calls

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

        self.principal = authenticate(tls.getpeercert())

    def _accept(self, message: Message) -> None:
        match message:
            case ClientHello():
                log.info("%s connected, with %r", self, message.agent)
                self._last_heard = asyncio.get_running_loop().time()
                self._later(self._config.server.ping_interval, self._check_alive)
            case Request():
                self._start(message)
            case Rejected(request_id, error):
                self._connection.send(error_response(request_id, error))
            case Credit(request_id):
                if event := self._credited.get(request_id):
                    event.set()
            case Cancel(request_id):
                if task := self._requests.get(request_id):
                    # Later: a task that has not begun could not answer.
                    asyncio.get_running_loop().call_soon(task.cancel)
            case _:
                pass

    def _start(self, request: Request) -> None:
        task = asyncio.create_task(self._dispatch(self, request))
        self._requests[request.id] = task
        task.add_done_callback(lambda task: self._finished(request.id, task))

    def _finished(self, request_id: int, task: asyncio.Task[None]) -> None:
        # A client may use the id again as soon as it has the response.
        if self._requests.get(request_id) is task:
            del self._requests[request_id]
            self._credited.pop(request_id, None)

    def _refuse(self, error: RequestError) -> None:
        if not self._is_closing:
            self._connection.send(error_response(None, error))
            self._flush()
            self.close()

    def _flush(self) -> None:
        pieces = self._connection.data_to_send()

        if pieces and not self.is_lost and not _is_gone(self._transport):
            self._transport.writelines(pieces)

    def _check_open(self) -> None:
        if self.is_lost or self._is_closing:
            raise ConnectionClosed(f"{self} is gone")

    def _hello_missing(self) -> None:
        log.warning("%s sent no hello", self)
        self._counters.refusals[Refusal.SILENT] += 1
        self._refuse(ProtocolViolation("no hello came in time"))

    def _check_alive(self) -> None:
        limits = self._config.server
        silence = asyncio.get_running_loop().time() - self._last_heard

        if not self._writable.is_set():
            # We do not listen now; who does not read at all, the kernel drops.
            silence = 0.0

        if silence >= limits.ping_timeout:
            log.info("%s was silent for %.0f s: dropped", self, silence)
            self._transport.abort()
            return

        if silence >= limits.ping_interval:
            self._connection.send(Ping())
            self._flush()

        self._later(limits.ping_interval, self._check_alive)

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()

        self._timer = asyncio.get_running_loop().call_later(seconds, action)


def error_response(request_id: int | None, error: RequestError) -> ErrorResponse:
    """Return *error* as it goes over the wire."""
    return ErrorResponse(
        code=error.code, message=error.message, id=request_id, details=error.details
    )


def format_peer(address: tuple[str, int] | None) -> str:
    """Return a socket's peer as people write it."""
    if not address:
        return "?"

    host, port, *_ = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _refusal(error: RequestError) -> Refusal:
    is_full = isinstance(error, Unavailable)
    return Refusal.CROWDED if is_full else Refusal.IDENTITY


def _is_gone(transport: asyncio.Transport) -> bool:
    """Whether nothing arrives any more; the loop tells of a lost connection later.

    Until then it would log each attempt.
    """
    if transport.is_closing():
        return True

    try:
        sock = transport.get_extra_info("socket")
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _GONE
    except OSError:
        return True


def _bound_kernel_buffer(transport: asyncio.BaseTransport, size: int) -> None:
    sock = transport.get_extra_info("socket")

    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
