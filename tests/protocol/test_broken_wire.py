"""Whatever happens to the bytes on their way, both ends know it or take no harm."""

from dataclasses import replace
from typing import Any, Final, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from teleworkerd.protocol.codec import Registry, encode, pack
from teleworkerd.protocol.connection import (
    FROM_CLIENT,
    FROM_SERVER,
    ClientConnection,
    Connection,
    ConnectionState,
    ServerConnection,
)
from teleworkerd.protocol.errors import (
    LocalProtocolError,
    RemoteProtocolError,
    RequestError,
)
from teleworkerd.protocol.messages import (
    MAX_CREDIT,
    ClientHello,
    Message,
    Ping,
    Pong,
)
from teleworkerd.protocol.responses import (
    ConnectionLimits,
    ErrorResponse,
    Goaway,
    ServerHello,
)
from teleworkerd.protocol.roles import CLIENT_MESSAGES, SERVER_MESSAGES, Rejected
from tests.protocol.strategies import messages


pytestmark = pytest.mark.slow

IDS: Final = st.integers(0, 3)
PLACES: Final = st.floats(0, 1, exclude_max=True)  # of all bytes on their way
SIZES: Final = st.none() | st.integers(1, 100)

_HELLO: Final[dict[str, object]] = {
    "type": "hello",
    "versions": [1],
    "server": "s",
    "name": "n",
}


def framed(message: Message) -> bytes:
    """Return the frame of *message*."""
    return b"".join(encode(message))


# In place of the server's own, whether the client may take it.
HELLOS: Final[tuple[tuple[bytes, bool], ...]] = (
    (framed(ServerHello((3, 2, 1), "s", "n", time=1)), True),
    (framed(ServerHello((1,), "s", "n", ConnectionLimits(64, 1, 5, 1))), True),
    (pack({**_HELLO, "news": [{"x": None}], "limits": {"max_jobs": 3}}), True),
    (framed(ServerHello((2, 3), "s", "n")), False),
    (framed(ServerHello((), "s", "n")), False),
    (pack({**_HELLO, "versions": [True]}), False),
    (pack({**_HELLO, "limits": {"max_requests": 0}}), False),
    (framed(ErrorResponse("too_many", "full")), False),
    (framed(ErrorResponse("on_fire", "a code of later")), False),
    (framed(ErrorResponse("internal", "whose?", 1)), False),
    (framed(Goaway("")), False),
    (framed(Ping()), False),
    (framed(ClientHello(1)), False),
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", False),
)


class Way:
    """Bytes from one end to the other, and what may be done to them."""

    def __init__(self, sender: Connection, receiver: Connection) -> None:
        self.sender = sender
        self.receiver = receiver
        self.sent: list[Message] = []  # and not yet arrived
        self.data = b""

    def collect(self) -> None:
        """Take what the sender has to say."""
        self.data += b"".join(self.sender.data_to_send())

    def place(self, fraction: float) -> int:
        """Return a place among the bytes on their way."""
        return int(fraction * (len(self.data) + 1))


class BrokenWire(RuleBasedStateMachine):
    """Both ends say what they may, somebody between them does what nobody may."""

    def __init__(self) -> None:
        super().__init__()
        self.client = ClientConnection(agent="c")
        self.server = ServerConnection(name="n", server="s")
        self.ways = (
            Way(self.client, self.server),
            Way(self.server, self.client),
        )
        self.is_touched = False  # something may be wrong from now on, at either end
        self.states = [end.state for end in (self.client, self.server)]

    @initialize(hello=st.none() | st.sampled_from(HELLOS))
    def greet(self, hello: tuple[bytes, bool] | None) -> None:
        """The server says hello, or somebody else does."""
        _, down = self.ways
        down.collect()
        down.sent.append(ServerHello((1,), "s", "n"))

        if hello is not None:
            down.data, is_good = hello
            down.sent.clear()
            self.is_touched = not is_good

    @rule(message=messages(CLIENT_MESSAGES), number=IDS)
    def client_sends(self, message: Message, number: int) -> None:
        """The client says anything; it knows what it must not."""
        self._send(self.ways[0], message, number)

    @rule(message=messages(SERVER_MESSAGES), number=IDS)
    def server_sends(self, message: Message, number: int) -> None:
        """The server says anything; it knows what it must not."""
        self._send(self.ways[1], message, number)

    @rule(number=IDS)
    def server_fails(self, number: int) -> None:
        """The server answers, which it seldom does by chance."""
        self._send(self.ways[1], ErrorResponse("internal", "no"), number)

    @rule(way=st.integers(0, 1), size=SIZES)
    def carry(self, way: int, size: int | None) -> None:
        """Some bytes arrive."""
        self._deliver(self.ways[way], size)

    @rule(message=messages(CLIENT_MESSAGES), number=IDS, place=PLACES)
    def smuggle_up(self, message: Message, number: int, place: float) -> None:
        """A message comes in between that the client never sent."""
        self._insert(self.ways[0], framed(numbered(message, number)), place)

    @rule(message=messages(SERVER_MESSAGES), number=IDS, place=PLACES)
    def smuggle_down(self, message: Message, number: int, place: float) -> None:
        """A message comes in between that the server never sent."""
        self._insert(self.ways[1], framed(numbered(message, number)), place)

    @rule(way=st.integers(0, 1), junk=st.binary(min_size=1, max_size=20), place=PLACES)
    def insert(self, way: int, junk: bytes, place: float) -> None:
        """Bytes come in between that are nothing."""
        self._insert(self.ways[way], junk, place)

    @rule(way=st.integers(0, 1), place=PLACES, bit=st.integers(0, 7))
    def flip(self, way: int, place: float, bit: int) -> None:
        """A bit is another."""
        on = self.ways[way]
        on.collect()

        if on.data:
            data = bytearray(on.data)
            data[int(place * len(data))] ^= 1 << bit
            on.data = bytes(data)
            self.is_touched = True

    @rule(way=st.integers(0, 1), begin=PLACES, end=PLACES)
    def cut(self, way: int, begin: float, end: float) -> None:
        """Some bytes are lost."""
        on = self.ways[way]
        on.collect()
        start, stop = sorted((on.place(begin), on.place(end)))
        self.is_touched |= start < stop and start < len(on.data)
        on.data = on.data[:start] + on.data[stop:]

    @invariant()
    def states_never_go_back(self) -> None:
        """A connection that is open was greeted, and one that is closed stays so."""
        states = [end.state for end in (self.client, self.server)]

        for before, now in zip(self.states, states, strict=True):
            assert before.value <= now.value

        self.states = states

    @invariant()
    def credit_is_bounded(self) -> None:
        """Whatever arrives, nobody has more credit than there may be."""
        for number in range(4):
            assert 0 <= self.server.credit(number) <= MAX_CREDIT

    def teardown(self) -> None:
        """All that is on its way arrives."""
        for way in (1, 0, 1):
            self._deliver(self.ways[way], None)

    def _send(self, way: Way, message: Message, number: int) -> None:
        message = numbered(message, number)

        try:
            way.sender.send(message)
        except LocalProtocolError:
            return

        if not isinstance(message, Ping | Pong):
            way.sent.append(message)

    def _insert(self, way: Way, data: bytes, place: float) -> None:
        way.collect()
        at = way.place(place)
        way.data = way.data[:at] + data + way.data[at:]
        self.is_touched = True

    def _deliver(self, way: Way, size: int | None) -> None:
        way.collect()
        part, way.data = way.data[:size], way.data[size:] if size else b""
        way.receiver.receive_data(part)
        known = FROM_CLIENT if way.receiver is self.server else FROM_SERVER

        try:
            for message in way.receiver.events():
                self._arrived(way, message, known)
        except (RemoteProtocolError, RequestError):
            assert self.is_touched
            assert way.receiver.state is ConnectionState.CLOSED

        if way.receiver.state is ConnectionState.CLOSED:
            way.receiver.receive_data(framed(Goaway("")))
            assert not list(way.receiver.events())

    def _arrived(self, way: Way, message: Message, known: Registry) -> None:
        assert type(message) in (*known.values(), Rejected)

        if isinstance(message, ClientHello | ServerHello):
            way.sent = [each for each in way.sent if type(each) is not type(message)]
        elif not self.is_touched:
            assert message == way.sent.pop(0)


def numbered(message: Message, number: int) -> Message:
    """Return *message* with the id *number*, if it has one, so that ids meet."""
    if hasattr(message, "id"):
        return cast("Message", replace(cast("Any", message), id=number))

    return message


TestBrokenWire = BrokenWire.TestCase
TestBrokenWire.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
