"""One connection without an event loop, for commands that ask and are done."""

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
from twctl.advice import advice
from twctl.conduct import (
    AGENT,
    CONNECT_TIMEOUT,
    HELLO_TIMEOUT,
    LOST_AFTER,
    PING_AFTER,
    prepare_socket,
)
from twctl.credentials import read_credentials
from twctl.lookup import attempts, look_up
from twctl.outage import FIRST_TRY, GaveUp, Outage, gave_up, patience
from twctl.profile import Profile
from twctl.rejection import ConnectionRejected, asked_pause
from twctl.tls import (
    check_server,
    client_context,
    dismissal,
    is_cut_off,
    refusal,
    silence,
)


RESPONSE_TIMEOUT: Final = 60.0  # seconds; starting a job on a busy host takes a few
RETRY_FOR: Final = 60.0  # seconds; whoever starts a job waits for its ID at a prompt
READ_SIZE: Final = 64 << 10

A = TypeVar("A", bound=Response)


class BlockingSession:
    """A connection to the server; asks one thing at a time.

    Connects when it is made, once, and raises `ConnectionClosed` (`ConnectionRejected`
    where trying again is useless), `Unavailable` or `TooMany` if it cannot.
    """

    def __init__(self, profile: Profile, context: ssl.SSLContext) -> None:
        self._profile = profile
        self._context = context
        self._connection = ClientConnection(agent=AGENT)
        self._arrived: deque[Message] = deque()
        self._socket = _open(profile, context)

        try:
            alpn = self._socket.selected_alpn_protocol()
            check_server(alpn, self._socket.getpeercert(binary_form=True), profile)
            self._greet()
        except BaseException:
            self._socket.close()
            raise

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

    def reopen(self) -> "BlockingSession":
        """Return another connection, to the same server and as the same client."""
        return BlockingSession(self._profile, self._context)

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
        except (OSError, ConnectionClosed, RemoteProtocolError) as error:
            is_final = isinstance(error, RemoteProtocolError)
            cls = ConnectionRejected if is_final else ConnectionClosed
            raise cls(
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
        except TimeoutError as error:
            raise silence(self._profile) from error
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
            raise ConnectionClosed(message.message)

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


def connect(
    profile: Profile, *, warn: Callable[[str], None] | None = None
) -> BlockingSession:
    """Return a connection to the server.

    *warn* is called with a sentence for each certificate of ours that ends soon. Who
    is cut off before the hello tries again for a short time. Raises as
    `BlockingSession`, or `ProfileError`.
    """
    credentials = read_credentials(profile)
    session = _reach(profile, client_context(credentials))

    if warn is not None:
        for warning in credentials.ending(time.time()):
            warn(warning)

    return session


def _reach(profile: Profile, context: ssl.SSLContext) -> BlockingSession:
    outage = Outage(patience().at_most(FIRST_TRY))
    outage.lost(time.monotonic())

    while True:
        try:
            return BlockingSession(profile, context)
        except ConnectionClosed as error:
            pause = outage.next_pause(time.monotonic())

            if pause is None or not is_cut_off(error):
                raise

        time.sleep(pause)


def start(
    profile: Profile,
    request: RunRequest,
    *,
    again: bool = True,
    warn: Callable[[str], None] | None = None,
) -> RunResponse:
    """Start a job; asks *again*, with the same request id, when the response is lost.

    Raises as `connect` and `BlockingSession.ask`, or `GaveUp` when it is not known
    whether the job was started.
    """
    how_long = patience(None if again else 0).at_most(RETRY_FOR)
    session = connect(profile, warn=warn)

    try:
        with session:
            return session.ask(request, RunResponse)
    except ConnectionRejected:
        raise
    except ConnectionClosed as error:
        if not how_long.silent:
            raise GaveUp(f"{error}{advice(request)}") from error

        return _start_again(session, request, Outage(how_long), error)


def _start_again(
    session: BlockingSession,
    request: RunRequest,
    outage: Outage,
    error: TeleworkerError,
) -> RunResponse:
    """Ask until there is an answer to what *error* has left without one."""
    outage.lost(time.monotonic())

    while True:
        now = time.monotonic()
        is_refused = isinstance(error.__cause__, ConnectionRefusedError)
        outage.failed(now, refused=is_refused)
        pause = outage.next_pause(now, at_least=asked_pause(error) or 0)

        if pause is None:
            last = gave_up(error, tried=outage.tried(now))
            raise GaveUp(f"{last}{advice(request)}", tried=last.tried) from error

        time.sleep(pause)

        try:
            with session.reopen() as other:
                return other.ask(request, RunResponse)
        except ConnectionRejected:
            raise
        except (ConnectionClosed, Unavailable, TooMany) as again:
            error = again


def _open(profile: Profile, context: ssl.SSLContext) -> ssl.SSLSocket:
    # Of a text, ASCII too, this would look up how IDNA writes it, and import that.
    host = profile.host.encode() if profile.host.isascii() else profile.host
    sock: socket.socket | None = None

    try:
        sock = _connect(profile)
        return context.wrap_socket(sock, server_hostname=host)
    except OSError as error:
        if sock is not None:
            sock.close()

        raise refusal(error, profile) from error


def _connect(profile: Profile) -> socket.socket:
    error: OSError = OSError("the host name has no address")

    for (family, kind, number, _, address), seconds in attempts(look_up(profile)):
        sock = socket.socket(family, kind, number)

        try:
            prepare_socket(sock)
            sock.settimeout(seconds)
            sock.connect(address)
            sock.settimeout(CONNECT_TIMEOUT)
        except OSError as refused:
            sock.close()
            error = refused
        except BaseException:
            sock.close()
            raise
        else:
            return sock

    raise error
