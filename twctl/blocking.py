"""One connection without an event loop, for commands that ask and are done."""

import os
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self, TypeVar

from teleworkerd.protocol.connection import ClientConnection
from teleworkerd.protocol.errors import (
    ConnectionClosed,
    RemoteProtocolError,
    RequestError,
    TeleworkerError,
    TooMany,
    Unavailable,
)
from teleworkerd.protocol.messages import Message, Ping, Request, Response, RunRequest
from teleworkerd.protocol.responses import (
    ErrorResponse,
    Goaway,
    RunResponse,
    ServerHello,
)
from twctl.conduct import (
    AGENT,
    CONNECT_TIMEOUT,
    HELLO_TIMEOUT,
    LOST_AFTER,
    PING_AFTER,
    prepare_socket,
)
from twctl.credentials import read_credentials
from twctl.profile import Profile
from twctl.rejection import ConnectionRejected, asked_pause
from twctl.tls import check_server, client_context, dismissal, refusal


RESPONSE_TIMEOUT: Final = 60.0  # seconds; starting a job on a busy host takes a few
RETRY_FOR: Final = 60.0  # seconds; whoever starts a job waits for its ID at a prompt
LONGEST_PAUSE: Final = 2.0  # seconds
READ_SIZE: Final = 64 << 10

A = TypeVar("A", bound=Response)


class BlockingSession:
    """A connection to the server; asks one thing at a time.

    Connects when it is made, and raises `ConnectionClosed` (`ConnectionRejected`
    where trying again is useless), `Unavailable`, `TooMany` or `ProfileError` if it
    cannot. *warn* is called with a sentence for each certificate of ours that ends
    soon.
    """

    def __init__(
        self, profile: Profile, *, warn: Callable[[str], None] | None = None
    ) -> None:
        self._profile = profile
        self._connection = ClientConnection(agent=AGENT)
        self._arrived: deque[Message] = deque()
        credentials = read_credentials(profile)
        self._socket = _open(profile, client_context(credentials))

        try:
            alpn = self._socket.selected_alpn_protocol()
            check_server(alpn, self._socket.getpeercert(binary_form=True), profile)
            self._greet()
        except BaseException:
            self._socket.close()
            raise

        if warn is not None:
            for warning in credentials.ending(time.time()):
                warn(warning)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The server need not answer our goodbye; we do not wait for it.
        with suppress(OSError, ValueError):
            self._socket.settimeout(0)
            self._socket.unwrap()

        self._socket.close()

    def ask(
        self,
        request: Request,
        response: type[A],
        *,
        timeout: float | None = RESPONSE_TIMEOUT,
    ) -> A:
        """Return the response to *request*, whose id must be new on this connection.

        Raises the `RequestError` that the server answers, or `ConnectionClosed`
        when it is silent for too long, gone, or has refused the connection.
        """
        try:
            self._connection.send(request)
            self._flush()
            received = self._receive(timeout)
        except RequestError as error:  # about the whole connection
            raise dismissal(error, self._profile.address) from error
        except (OSError, RemoteProtocolError) as error:
            raise ConnectionClosed(
                f"{self._profile.address}: the connection was lost ({error})"
            ) from error

        match received:
            case ErrorResponse(code, message, _, details):
                raise RequestError.from_wire(code, message, details)
            case response():
                return received
            case _:
                raise ConnectionRejected(
                    f"{self._profile.address}: {request.type} was answered"
                    f" by {received.type}"
                )

    def _greet(self) -> None:
        name = ""

        try:
            # A server that names nobody is about to say why it refuses us.
            while not name:
                hello = self._receive(HELLO_TIMEOUT)
                assert isinstance(hello, ServerHello)  # noqa: S101 - so it must be
                name = hello.name
        except ConnectionClosed as error:
            raise refusal(error.__cause__, self._profile) from error
        except (OSError, TeleworkerError) as error:
            raise refusal(error, self._profile) from error

    def _receive(self, timeout: float | None) -> Message:
        deadline = None if timeout is None else time.monotonic() + timeout
        heard_at = time.monotonic()

        while not self._arrived:
            now = time.monotonic()

            if now - heard_at >= LOST_AFTER or (deadline and now >= deadline):
                raise TimeoutError(f"no response within {now - heard_at:.0f} s")

            if self._read(PING_AFTER if deadline is None else deadline - now):
                heard_at = time.monotonic()

        message = self._arrived.popleft()

        if isinstance(message, Goaway):
            raise ConnectionClosed(f"{self._profile.address}: {message.message}")

        return message

    def _read(self, patience: float) -> bool:
        """Take what comes within *patience* seconds; False when nothing did."""
        self._socket.settimeout(min(patience, PING_AFTER))

        try:
            data = self._socket.recv(READ_SIZE)
        except TimeoutError:
            if patience >= PING_AFTER:
                self._connection.send(Ping())
                self._flush()

            return False

        if not data:
            raise ConnectionResetError("the server closed it")

        self._connection.receive_data(data)
        self._arrived.extend(self._connection.events())
        self._flush()
        return True

    def _flush(self) -> None:
        self._socket.settimeout(LOST_AFTER)

        for piece in self._connection.data_to_send():
            self._socket.sendall(piece)


def start(
    profile: Profile,
    request: RunRequest,
    *,
    again: bool = True,
    warn: Callable[[str], None] | None = None,
) -> RunResponse:
    """Start a job; asks *again*, with the same request id, when the response is lost.

    The first connection is not tried twice. *warn* is as with `BlockingSession`.
    Raises as `BlockingSession.ask`.
    """
    deadline = time.monotonic() + RETRY_FOR
    pause = 0.05
    asked = False

    while True:
        try:
            with BlockingSession(profile, warn=None if asked else warn) as session:
                asked = True
                return session.ask(request, RunResponse)
        except ConnectionRejected:
            raise
        except (ConnectionClosed, Unavailable, TooMany) as error:
            is_lost = isinstance(error, ConnectionClosed) or pause > 0.05
            pause = min(LONGEST_PAUSE, pause * 2)
            wait = (asked_pause(error) or 0) + pause * _jitter()

            if not (again and asked and is_lost) or time.monotonic() + wait > deadline:
                raise

        time.sleep(wait)


def _jitter() -> float:
    """Return a factor from 0.5 to 1, so that clients do not come back at once."""
    return 0.5 + os.urandom(1)[0] / 512


def _open(profile: Profile, context: ssl.SSLContext) -> ssl.SSLSocket:
    # Of a text, ASCII too, both would look up how IDNA writes it, and import that.
    host = profile.host.encode() if profile.host.isascii() else profile.host

    try:
        sock = socket.create_connection(
            (host, profile.port),  # type: ignore[arg-type]  # what getaddrinfo takes
            timeout=CONNECT_TIMEOUT,
        )
    except OSError as error:
        raise refusal(error, profile) from error

    try:
        prepare_socket(sock)
        return context.wrap_socket(sock, server_hostname=host)
    except OSError as error:
        sock.close()
        raise refusal(error, profile) from error
