"""Both ends of a connection as state machines without I/O.

Bytes in by `receive_data`, messages out by `events`; messages in by `send`,
bytes out by `data_to_send`. Neither knows a socket or a clock. The rules stand
in protocol.md; who breaks one gets a `RemoteProtocolError` (the peer did) or a
`LocalProtocolError` (we did).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from enum import Enum, auto
from typing import Final, Self

from teleworkerd.protocol.codec import Registry, decode, encode, registry
from teleworkerd.protocol.errors import (
    ErrorCode,
    LocalProtocolError,
    RemoteProtocolError,
    RequestError,
    UnsupportedVersion,
)
from teleworkerd.protocol.framing import (
    LENGTH,
    MAX_FRAME,
    MAX_FRAME_BEFORE_HELLO,
    FrameDecoder,
)
from teleworkerd.protocol.ledger import InFlight, Ledger
from teleworkerd.protocol.messages import (
    MAX_CREDIT,
    MAX_REQUESTS,
    VERSION,
    Cancel,
    ClientHello,
    Credit,
    InputData,
    InterleaveRequest,
    Message,
    OutputRequest,
    Ping,
    Pong,
    Request,
    Response,
)
from teleworkerd.protocol.responses import ConnectionLimits, ErrorResponse, ServerHello
from teleworkerd.protocol.roles import CLIENT_MESSAGES, SERVER_MESSAGES, Rejected


class ConnectionState(Enum):
    """Where a connection is; it only ever moves down this list."""

    GREETING = auto()
    OPEN = auto()
    CLOSED = auto()


FROM_CLIENT: Final = registry(CLIENT_MESSAGES)
FROM_SERVER: Final = registry(SERVER_MESSAGES)


class Connection(ABC):
    """What the two ends have in common."""

    def __init__(
        self, incoming: Registry, outgoing: Registry, requests: Ledger
    ) -> None:
        self.state = ConnectionState.GREETING
        self._incoming = incoming
        self._sendable = {kind for name, kind in outgoing.items() if name != "hello"}
        self._max_outgoing = MAX_FRAME
        self._decoder = FrameDecoder(MAX_FRAME_BEFORE_HELLO)
        self._outgoing: list[bytes] = []
        self._requests = requests

    @property
    def frames(self) -> int:
        """How many frames of the peer were taken."""
        return self._decoder.count

    @property
    def is_mid_frame(self) -> bool:
        """Whether, after all `events`, a frame of the peer has begun and not ended."""
        return self.state is not ConnectionState.CLOSED and self._decoder.has_rest

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes from the peer; then ask `events`."""
        if self.state is not ConnectionState.CLOSED:
            self._decoder.shrink()
            self._decoder.feed(data)

    def get_buffer(self, size: int) -> memoryview:
        """Return memory for *size* bytes or more from the peer."""
        if self.state is ConnectionState.CLOSED:
            # Closing may read on while the memory from before is still in use.
            return memoryview(bytearray(size))

        return self._decoder.get_buffer(size)

    def buffer_updated(self, size: int) -> None:
        """Take the *size* bytes that were put there; then ask `events`."""
        if self.state is not ConnectionState.CLOSED:
            self._decoder.received(size)

    def events(self) -> Iterator[Message]:
        """Yield the messages that have arrived, in order.

        A `Ping` is answered here and not yielded. Raises `RemoteProtocolError`,
        or `RequestError` when the peer closed with one or speaks no version of
        ours; the connection is then closed, but what `data_to_send` holds should
        still be written: a server's last word is in it.
        """
        while self.state is not ConnectionState.CLOSED:
            try:
                frame = self._decoder.next_frame()

                if frame is None:
                    return

                with frame:  # or an error of it would keep its memory from growing
                    message = decode(frame, self._incoming)

                self._accept(message)
            except (RemoteProtocolError, RequestError) as error:
                self._refuse(error)
                self.state = ConnectionState.CLOSED
                raise

            if isinstance(message, Ping):
                self._outgoing += encode(Pong(message.number))
            elif not isinstance(message, Pong):
                yield message

    def send(self, message: Message) -> None:
        """Queue *message*.

        Raises `LocalProtocolError`, and changes nothing, when it is not its time,
        not ours to send, or more than a peer takes.
        """
        if self.state is ConnectionState.CLOSED:
            raise LocalProtocolError(f"{message.type} after the connection was closed")

        if type(message) not in self._sendable:
            raise LocalProtocolError(f"{message.type} is not for this side to send")

        pieces = encode(message)
        size = sum(map(len, pieces)) - LENGTH.size

        if size > self._max_outgoing:
            raise LocalProtocolError(
                f"a {message.type} of {size} bytes; the peer takes"
                f" {self._max_outgoing} at most"
            )

        self._check(message)
        self._outgoing += pieces

    def data_to_send(self) -> list[bytes]:
        """Return what is to be written now, and forget it."""
        pieces, self._outgoing = self._outgoing, []
        return pieces

    def close(self) -> None:
        """Take nothing more in and send nothing more than what is queued."""
        self.state = ConnectionState.CLOSED
        # What has come of a frame may be large.
        self._decoder = FrameDecoder(MAX_FRAME_BEFORE_HELLO)

    def _open(self) -> None:
        self.state = ConnectionState.OPEN
        self._decoder.max_size = MAX_FRAME

    @abstractmethod
    def _refuse(self, error: RemoteProtocolError | RequestError) -> None:
        """Queue a last word about *error*."""

    @abstractmethod
    def _accept(self, message: Message) -> None:
        """Take *message* from the peer into account, or raise."""

    @abstractmethod
    def _check(self, message: Message) -> None:
        """Take *message* to the peer into account, or raise."""


class ServerConnection(Connection):
    """The server's end: speaks first, answers each request once.

    *name* is what the client's certificate says, *server* names the software,
    *time* is what its clock shows (ns since the epoch).
    """

    @classmethod
    def refusing(cls, error: RequestError) -> Self:
        """Return one that says *error* in place of the hello, and is closed."""
        connection = cls(name="", server="")
        connection._outgoing = encode(
            ErrorResponse(error.code, error.message, details=error.details)
        )
        connection.close()
        return connection

    def __init__(self, *, name: str, server: str, time: int | None = None) -> None:
        requests = Ledger(asking=RemoteProtocolError, answering=LocalProtocolError)
        super().__init__(FROM_CLIENT, FROM_SERVER, requests)
        self.agent = ""
        self._outgoing += encode(ServerHello((VERSION,), server, name, time=time))

    def credit(self, request_id: int) -> int:
        """Return how many bytes may be sent on an output request now."""
        held = self._requests.find(request_id)
        return held.credit if held else 0

    def _refuse(self, error: RemoteProtocolError | RequestError) -> None:
        # protocol.md, "Closing": the server speaks last, so that a client whose
        # connection is closed reads why.
        code = ErrorCode.PROTOCOL_ERROR

        if isinstance(error, RequestError):
            code = error.code

        self._outgoing += encode(ErrorResponse(code, str(error)))

    def _accept(self, message: Message) -> None:
        if self.state is ConnectionState.GREETING:
            self._greet(message)
            return

        match message:
            case Request() | Rejected():
                self._requests.begin(message, most=MAX_REQUESTS)
            case Credit(request_id, amount):
                self._add_credit(request_id, amount)
            case InputData(request_id):
                # It may cross the end of its request as well.
                if self._requests.find(request_id) is not None:
                    self._requests.send_input(message)
            case ClientHello():
                raise RemoteProtocolError("a second hello")
            case _:
                pass

    def _greet(self, message: Message) -> None:
        if not isinstance(message, ClientHello):
            raise RemoteProtocolError(f"{message.type} before hello")

        if message.version != VERSION:
            raise UnsupportedVersion(
                f"version {message.version} was chosen; this server speaks {VERSION}"
            )

        self.agent = message.agent
        self._open()

    def _add_credit(self, request_id: int, amount: int) -> None:
        held = self._requests.find(request_id)

        # Credit may cross the end of its request on the way: then it is void.
        if held is None or not held.reads_output:
            return

        if held.credit + amount > MAX_CREDIT:
            raise RemoteProtocolError(
                f"credit of {held.credit + amount} bytes; the most is {MAX_CREDIT}"
            )

        held.credit += amount

    def _check(self, message: Message) -> None:
        match message:
            case Response(request_id) | ErrorResponse(id=int(request_id)):
                self._requests.answer(message, request_id)
            case _:
                pass


class ClientConnection(Connection):
    """The client's end: answers the hello by itself, then may ask.

    *agent* names the software. `limits` are those of the server's hello.
    """

    def __init__(self, *, agent: str) -> None:
        requests = Ledger(asking=LocalProtocolError, answering=RemoteProtocolError)
        super().__init__(FROM_SERVER, FROM_CLIENT, requests)
        self.limits = ConnectionLimits()
        self._agent = agent

    def input_room(self, request_id: int) -> int:
        """Return how many bytes may be sent on an input request now."""
        held = self._requests.find(request_id)
        return 0 if held is None or held.window is None else held.window.room

    def _refuse(self, error: RemoteProtocolError | RequestError) -> None:
        """Say nothing: protocol.md, "Closing", has no such word for a client."""

    def _accept(self, message: Message) -> None:
        if isinstance(message, ErrorResponse) and message.id is None:
            raise RequestError.from_wire(message.code, message.message, message.details)

        if self.state is ConnectionState.GREETING:
            self._greet(message)
            return

        match message:
            case Response(request_id) | ErrorResponse(id=int(request_id)):
                self._requests.answer(message, request_id)
            case ServerHello():
                raise RemoteProtocolError("a second hello")
            case _:
                pass

    def _greet(self, message: Message) -> None:
        if not isinstance(message, ServerHello):
            raise RemoteProtocolError(f"{message.type} before hello")

        if VERSION not in message.versions:
            offered = ", ".join(map(str, message.versions))
            raise UnsupportedVersion(
                f"the server speaks version {offered}; this client speaks {VERSION}"
            )

        self.limits = message.limits
        self._max_outgoing = message.limits.max_frame
        self._open()
        self._outgoing += encode(ClientHello(VERSION, self._agent))

    def _check(self, message: Message) -> None:
        if self.state is not ConnectionState.OPEN:
            raise LocalProtocolError(f"{message.type} before hello")

        match message:
            case Request():
                if isinstance(message, OutputRequest | InterleaveRequest):
                    self._check_credit(message.credit)

                self._requests.begin(message, most=self.limits.max_requests)
            case Cancel(request_id):
                self._need(request_id)
            case Credit(request_id, amount):
                self._add_credit(request_id, amount)
            case InputData(request_id):
                self._need(request_id)
                self._requests.send_input(message)
            case _:
                pass

    def _need(self, request_id: int) -> InFlight:
        held = self._requests.find(request_id)

        if held is None:
            raise LocalProtocolError(f"request {request_id} is not open")

        return held

    def _add_credit(self, request_id: int, amount: int) -> None:
        held = self._need(request_id)

        if not held.reads_output:
            raise LocalProtocolError(f"credit for a {held.request.type} request")

        self._check_credit(held.credit + amount)
        held.credit += amount

    def _check_credit(self, credit: int) -> None:
        if not 0 <= credit <= self.limits.max_credit:
            raise LocalProtocolError(
                f"credit of {credit} bytes; the most is {self.limits.max_credit}"
            )
