"""One connection to the server and the requests on it, under asyncio."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final, TypeVar, cast

from teleworkerd.protocol.codec import check
from teleworkerd.protocol.connection import ClientConnection
from teleworkerd.protocol.errors import (
    ConnectionClosed,
    LocalProtocolError,
    PermissionDenied,
    RemoteProtocolError,
    RequestError,
    TeleworkerError,
    TooMany,
    Unavailable,
)
from teleworkerd.protocol.messages import (
    Cancel,
    Credit,
    EventsRequest,
    InputData,
    InputRequest,
    Message,
    Ping,
    Request,
    Response,
    RunRequest,
    TopRequest,
)
from teleworkerd.protocol.responses import (
    ErrorResponse,
    Goaway,
    ServerHello,
)
from twctl.conduct import AGENT, LOST_AFTER, PING_AFTER, is_gone
from twctl.exchanges import Exchanges, Inbox, settle
from twctl.feed import Feed
from twctl.news import NewsInbox
from twctl.rejection import AccessWithdrawn, ConnectionRejected
from twctl.sampling import Samples
from twctl.subscription import OutputQuery, Subscription


CLOSE_TIMEOUT: Final = 1.0  # seconds; nothing is lost when the peer stays silent
BUFFER_SIZE: Final = 256 << 10


A = TypeVar("A", bound=Response)
M = TypeVar("M", bound=Message)


class Session(asyncio.BufferedProtocol):
    """A connection, what was asked on it, and whether it still lives.

    Pings are answered and sent by themselves. When the connection ends, every
    open request fails with `ConnectionClosed`, the reason chained.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._connection = ClientConnection(agent=AGENT)
        self._transport: asyncio.Transport | None = None
        self._error: TeleworkerError | OSError | None = None
        self.is_closed = False  # nothing can be asked any more
        self._exchanges = Exchanges()
        self._writable = asyncio.Event()
        self._heard_at = self._opened_at = self._loop.time()
        self._closed_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self.greeted: asyncio.Future[ServerHello] = self._loop.create_future()
        self.alpn: str | None = None
        self.certificate: bytes | None = None  # the server's
        # What the server's clock shows, less ours that cannot be set.
        self._clock = time.time_ns() - time.monotonic_ns()

    # For the users of a session

    async def ask(self, request: Request, response: type[A]) -> A:
        """Send *request* under a number of its own and return its response.

        Raises the `RequestError` that the server answers, or `ConnectionClosed`.
        """
        number = await self._begin()
        future = self._exchanges.expect(number)

        try:
            self._send(replace(request, id=number))
            await self._writable.wait()
            received = await future
        except LocalProtocolError:
            self._exchanges.end(number)
            raise
        except asyncio.CancelledError:
            # A half-made job helps nobody, so a run is never cancelled.
            if not isinstance(request, RunRequest):
                self._cancel(number)

            raise

        if not isinstance(received, response):
            raise ConnectionRejected(
                f"{self._address}: {request.type} was answered by {received.type}"
            )

        return received

    async def subscribe(
        self, request: OutputQuery, *, refill: bool = True
    ) -> tuple[Subscription, Callable[[], None]]:
        """Open an output request; return its subscription and how to cancel it.

        Without *refill* it gets no more than the credit of the request.
        """
        number = await self._begin()
        subscription = Subscription(
            request, lambda size: self._grant(number, size) if refill else None
        )
        opened = self._exchanges.expect(number)
        self._exchanges.collect(number, subscription)

        try:
            self._send(replace(request, id=number))
            response = await opened
        except LocalProtocolError:
            self._exchanges.end(number)
            raise
        except asyncio.CancelledError:
            self._cancel(number)
            raise

        try:
            subscription.open(response)
        except RemoteProtocolError as error:
            self._cancel(number)
            raise ConnectionRejected(f"{self._address}: {error}") from error

        return subscription, lambda: self._cancel(number)

    async def watch(self, request: TopRequest) -> tuple[Samples, Callable[[], None]]:
        """Open a top request; return its samples and how to cancel it."""
        samples = Samples()
        number = await self._open(request, samples)
        return samples, lambda: self._cancel(number)

    async def hear(
        self, request: EventsRequest
    ) -> tuple[NewsInbox, Callable[[], None]]:
        """Open an events request; return where news come, and how to cancel it."""
        inbox = NewsInbox()
        number = await self._open(request, inbox)
        return inbox, lambda: self._cancel(number)

    async def feed(self, request: InputRequest) -> tuple[Feed, Callable[[], None]]:
        """Open an input request; return how to send on it, and how to cancel it."""
        feed = Feed(
            send=lambda offset, data, eof: self._send(
                InputData(number, offset, data, eof)
            ),
            room=lambda: self._connection.input_room(number),
        )
        number = await self._open(request, feed)
        return feed, lambda: self._cancel(number)

    def now(self) -> int:
        """Return what the server's clock shows, in ns since the epoch.

        Our own clock stands in for one that it does not tell.
        """
        return time.monotonic_ns() + self._clock

    @property
    def lived(self) -> float:
        """For how many seconds it has been there, or was."""
        until = self._loop.time() if self._closed_at is None else self._closed_at
        return until - self._opened_at

    def lost(self) -> ConnectionClosed:
        """Return why nothing can be asked any more, as a new error."""
        error = self._error
        why = error or "the server closed it"

        if isinstance(error, PermissionDenied):
            closed: ConnectionClosed = AccessWithdrawn(f"{self._address}: {why}")
        else:
            cls = ConnectionRejected if _is_final(error) else ConnectionClosed
            closed = cls(f"{self._address}: the connection was lost ({why})")

        closed.__cause__ = error
        return closed

    async def close(self) -> None:
        """End the connection; returns when it is gone, after 1 s at the latest."""
        self._fail(ConnectionClosed("closed by this client"))

        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await asyncio.shield(self._gone)
        finally:
            self.abort()

    def abort(self) -> None:
        """End the connection at once."""
        self._fail(ConnectionClosed("aborted by this client"))

        if self._transport is not None:
            self._transport.abort()

    # For the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is its own
        tls = transport.get_extra_info("ssl_object")

        if tls is not None:
            self.alpn = tls.selected_alpn_protocol()
            self.certificate = tls.getpeercert(binary_form=True)

        self._writable.set()
        self._timer = self._loop.call_later(PING_AFTER, self._check_alive)

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._connection.get_buffer(BUFFER_SIZE)

    def buffer_updated(self, nbytes: int) -> None:
        self._heard_at = self._loop.time()
        self._connection.buffer_updated(nbytes)

        try:
            for message in self._connection.events():
                self._accept(message)
        except (RemoteProtocolError, RequestError) as error:
            self._flush()
            self._fail(error)
        else:
            self._flush()

    def eof_received(self) -> None:
        self._fail(None)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc if isinstance(exc, OSError) else None)

        if not self._gone.done():
            self._gone.set_result(None)

    # Inside

    async def _open(self, request: Request, inbox: Inbox) -> int:
        """Send *request*, for which *inbox* gets all that comes; return its number."""
        number = await self._begin()
        self._exchanges.collect(number, inbox)

        try:
            self._send(replace(request, id=number))
        except LocalProtocolError:
            self._exchanges.end(number)
            raise

        return number

    def _accept(self, message: Message) -> None:
        match message:
            case Response():
                self._exchanges.accept(message)
            case ErrorResponse(code, text, int(number), details):
                error = RequestError.from_wire(code, text, details)
                self._exchanges.refuse(number, error)
            case ServerHello():
                self._greet(message)
            case Goaway(text):
                self._fail(ConnectionClosed(text))
            case _:
                pass

    def _greet(self, hello: ServerHello) -> None:
        if not hello.name:  # a server that names nobody is about to say why
            return

        if hello.time is not None:
            self._clock = hello.time - time.monotonic_ns()

        self._exchanges.allow(hello.limits.max_requests - 1)
        settle(self.greeted, hello)

    async def _begin(self) -> int:
        number = await self._exchanges.begin()

        if self.is_closed:
            self._exchanges.end(number)
            raise self.lost()

        return number

    def _cancel(self, number: int) -> None:
        # The number stays taken until the server has answered.
        if number in self._exchanges:
            self._send(Cancel(number))

    def _grant(self, number: int, size: int) -> None:
        if number in self._exchanges:
            self._send(Credit(number, size))

    def _send(self, message: Message) -> None:
        if isinstance(message, Request):
            # A program's mistake shall not end the connection that others use too.
            check(message)

        if not self.is_closed:
            self._connection.send(message)
            self._flush()

    def _flush(self) -> None:
        pieces = self._connection.data_to_send()

        if not pieces or self._transport is None or self._transport.is_closing():
            return

        # What is written after the end is logged, by asyncio, in somebody's program.
        if not is_gone(self._transport.get_extra_info("socket")):
            self._transport.writelines(pieces)

    def _check_alive(self) -> None:
        silence = self._loop.time() - self._heard_at

        if silence >= LOST_AFTER:
            self._fail(ConnectionClosed(f"no sign of life for {silence:.0f} s"))
            self.abort()
            return

        if silence >= PING_AFTER - 1 and self.greeted.done():
            self._send(Ping())

        self._timer = self._loop.call_later(PING_AFTER, self._check_alive)

    def _fail(self, error: TeleworkerError | OSError | None) -> None:
        if self.is_closed:
            return

        self.is_closed = True
        self._closed_at = self._loop.time()
        self._error = error
        self._connection.close()

        if self._timer is not None:
            self._timer.cancel()

        if self._transport is not None:
            self._transport.close()

        if not self.greeted.done():
            settle(self.greeted, self.lost())

        self._exchanges.fail(self.lost)
        self._writable.set()


def _is_final(error: BaseException | None) -> bool:
    if isinstance(error, RequestError):
        return not isinstance(error, Unavailable | TooMany)

    return isinstance(error, RemoteProtocolError)
