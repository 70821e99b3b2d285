"""One connection to the server and the requests on it, under asyncio."""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar, cast

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
    InterleaveResponse,
    OutputResponse,
    ServerHello,
)
from teleworkerd.protocol.roles import PARTIAL
from twctl.conduct import AGENT, LOST_AFTER, PING_AFTER, is_gone
from twctl.feed import Feed
from twctl.news import NewsInbox
from twctl.rejection import AccessWithdrawn, ConnectionRejected
from twctl.sampling import Samples
from twctl.subscription import OutputQuery, Subscription


CLOSE_TIMEOUT: Final = 1.0  # seconds; nothing is lost when the peer stays silent
BUFFER_SIZE: Final = 256 << 10


A = TypeVar("A", bound=Response)
M = TypeVar("M", bound=Message)


class Inbox(Protocol):
    """Where what comes for one request goes, after its first response."""

    def put(self, arrived: Any) -> None:
        """Take what has come: a response, or an error, which is the last."""


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
        self._numbers: Iterator[int] = itertools.cycle(range(1 << 32))
        self._responses: dict[int, asyncio.Future[Response]] = {}
        self._subscriptions: dict[int, Inbox] = {}
        self._slots = asyncio.Semaphore(1)  # the hello says how many more
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
        number = await self._acquire()
        future: asyncio.Future[Response] = self._loop.create_future()
        self._responses[number] = future

        try:
            self._send(replace(request, id=number))
            await self._writable.wait()
            received = await future
        except LocalProtocolError:
            self._release(number)
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
        number = await self._acquire()
        subscription = Subscription(
            request, lambda size: self._grant(number, size) if refill else None
        )
        opened: asyncio.Future[Response] = self._loop.create_future()
        self._responses[number] = opened
        self._subscriptions[number] = subscription

        try:
            self._send(replace(request, id=number))
            response = await opened
        except LocalProtocolError:
            self._release(number)
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
        number = await self._acquire()
        self._subscriptions[number] = inbox

        try:
            self._send(replace(request, id=number))
        except LocalProtocolError:
            self._release(number)
            raise

        return number

    def _accept(self, message: Message) -> None:
        match message:
            case Response(number) if (inbox := self._subscriptions.get(number)) and (
                number not in self._responses
            ):
                inbox.put(message)

                if not isinstance(message, PARTIAL):
                    self._release(number)
            case OutputResponse(number) | InterleaveResponse(number):
                _settle(self._responses.pop(number), message)
            case ErrorResponse(code, text, int(number), details):
                self._refuse(number, RequestError.from_wire(code, text, details))
            case Response(number):
                _settle(self._responses[number], message)
                self._release(number)
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

        for _ in range(hello.limits.max_requests - 1):
            self._slots.release()

        _settle(self.greeted, hello)  # whoever waited for it may be gone

    def _refuse(self, number: int, error: TeleworkerError) -> None:
        future = self._responses.get(number)
        subscription = self._subscriptions.get(number)
        self._release(number)

        if future is not None:
            _settle(future, error)
        elif subscription is not None:
            subscription.put(error)

    async def _acquire(self) -> int:
        await self._slots.acquire()

        if self.is_closed:
            self._slots.release()
            raise self.lost()

        return next(
            number
            for number in self._numbers
            if number not in self._responses and number not in self._subscriptions
        )

    def _release(self, number: int) -> None:
        self._responses.pop(number, None)
        self._subscriptions.pop(number, None)
        self._slots.release()

    def _cancel(self, number: int) -> None:
        # The number stays taken until the server has answered.
        if number in self._responses or number in self._subscriptions:
            self._send(Cancel(number))

    def _grant(self, number: int, size: int) -> None:
        if number in self._subscriptions:
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
            _settle(self.greeted, self.lost())

        for number in {*self._responses, *self._subscriptions}:
            self._refuse(number, self.lost())

        self._writable.set()


def _is_final(error: BaseException | None) -> bool:
    if isinstance(error, RequestError):
        return not isinstance(error, Unavailable | TooMany)

    return isinstance(error, RemoteProtocolError)


def _settle(future: asyncio.Future[M], result: M | TeleworkerError) -> None:
    if future.done():
        return

    if isinstance(result, TeleworkerError):
        future.set_exception(result)
        future.exception()  # whoever waited for it may be gone
    else:
        future.set_result(result)
