"""Whatever client and server do, in any order, a simple model predicts it."""

from dataclasses import dataclass, field
from typing import Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from teleworkerd.protocol.connection import (
    ClientConnection,
    Connection,
    ConnectionState,
    ServerConnection,
)
from teleworkerd.protocol.messages import (
    Cancel,
    ClientHello,
    Credit,
    InterleaveRequest,
    KillRequest,
    Message,
    OutputRequest,
    Ping,
)
from teleworkerd.protocol.responses import (
    DoneResponse,
    ErrorResponse,
    Goaway,
    InterleaveEnd,
    InterleaveResponse,
    OutputChunk,
    OutputEnd,
    OutputGap,
    OutputResponse,
    ServerHello,
)
from teleworkerd.protocol.types import Stream
from tests.protocol.pair import refuses


pytestmark = pytest.mark.slow

IDS: Final = st.integers(0, 3)
AMOUNTS: Final = st.integers(0, 20)
STREAMS: Final = st.sampled_from(Stream)
SHIFTS: Final = st.sampled_from([0, 0, 0, 1, -1])  # mostly in the right place

BOTH: Final = 2  # streams


@dataclass
class Asked:
    """What the model knows of a request; the two ends may know different things."""

    offsets: dict[Stream, int] = field(default_factory=dict)  # none: not of output
    granted: int = 0
    is_open: bool = False

    def named(self, stream: Stream) -> Stream | None:
        """Return what a piece of *stream* says of it."""
        return stream if len(self.offsets) == BOTH else None


def at(asked: Asked | None, stream: Stream) -> int:
    """Return where the next piece of *stream* begins, anything if there is none."""
    return asked.offsets.get(stream, 0) if asked else 0


class Wire:
    """Bytes on their way, and the messages that are to come out of them."""

    def __init__(self, sender: Connection, receiver: Connection) -> None:
        self._sender = sender
        self._receiver = receiver
        self._data = b""
        self.expected: list[Message] = []

    def carry(self, size: int | None = None) -> list[Message]:
        """Move *size* bytes, or all; check what arrives and return it."""
        self._data += b"".join(self._sender.data_to_send())
        part, self._data = self._data[:size], self._data[size:] if size else b""
        self._receiver.receive_data(part)
        found = list(self._receiver.events())

        assert found == self.expected[: len(found)]
        assert size or found == self.expected
        del self.expected[: len(found)]
        return found


class Conversation(RuleBasedStateMachine):
    """A client, a server, and what each is allowed to do next."""

    def __init__(self) -> None:
        super().__init__()
        self.client = ClientConnection(agent="c")
        self.server = ServerConnection(name="n", server="s")
        self.upward = Wire(self.client, self.server)
        self.downward = Wire(self.server, self.client)
        self.downward.expected.append(ServerHello((1,), "s", "n"))
        self.asked: dict[int, Asked] = {}  # as the server knows them
        self.in_use: dict[int, Asked] = {}  # as the client knows them
        self.client_is_greeted = self.server_is_greeted = False

    def client_sends(self, message: Message, *, allowed: bool) -> bool:
        """Send *message*; the client must refuse it unless it is *allowed*."""
        allowed = allowed and self.client_is_greeted
        assert allowed is not refuses(self.client, message)

        if allowed and not isinstance(message, Ping):
            self.upward.expected.append(message)

        return allowed

    def server_sends(self, message: Message, *, allowed: bool) -> bool:
        """Send *message*; the server must refuse it unless it is *allowed*."""
        assert allowed is not refuses(self.server, message)

        if allowed and not isinstance(message, Ping):
            self.downward.expected.append(message)

        return allowed

    @rule(number=IDS)
    def kill(self, number: int) -> None:
        """Ask for something with one response."""
        request = KillRequest(number, "j")

        if self.client_sends(request, allowed=number not in self.in_use):
            self.in_use[number] = Asked()

    @rule(number=IDS, stream=STREAMS, offset=AMOUNTS, credit=AMOUNTS)
    def read(self, number: int, stream: Stream, offset: int, credit: int) -> None:
        """Subscribe to a stream."""
        request = OutputRequest(number, "j", stream, offset, credit=credit)

        if self.client_sends(request, allowed=number not in self.in_use):
            self.in_use[number] = Asked({stream: offset}, credit)

    @rule(number=IDS, stdout=AMOUNTS, stderr=AMOUNTS, credit=AMOUNTS)
    def interleave(self, number: int, stdout: int, stderr: int, credit: int) -> None:
        """Subscribe to both streams."""
        request = InterleaveRequest(number, "j", stdout, stderr, credit=credit)

        if self.client_sends(request, allowed=number not in self.in_use):
            offsets = {Stream.STDOUT: stdout, Stream.STDERR: stderr}
            self.in_use[number] = Asked(offsets, credit)

    @rule(number=IDS, amount=AMOUNTS)
    def grant(self, number: int, amount: int) -> None:
        """Give credit."""
        held = self.in_use.get(number)
        allowed = held is not None and bool(held.offsets)

        if self.client_sends(Credit(number, amount), allowed=allowed) and held:
            held.granted += amount

    @rule(number=IDS)
    def cancel(self, number: int) -> None:
        """Cancel; the server still answers."""
        self.client_sends(Cancel(number), allowed=number in self.in_use)

    @rule(number=IDS)
    def done(self, number: int) -> None:
        """Respond to a kill."""
        held = self.asked.get(number)
        allowed = held is not None and not held.offsets

        if self.server_sends(DoneResponse(number, "j"), allowed=allowed):
            del self.asked[number]

    @rule(number=IDS)
    def fail(self, number: int) -> None:
        """Respond to anything with an error."""
        error = ErrorResponse("internal", "", number)

        if self.server_sends(error, allowed=number in self.asked):
            del self.asked[number]

    @rule(number=IDS, shift=SHIFTS, of_both=st.booleans())
    def opened(self, number: int, shift: int, *, of_both: bool) -> None:
        """Begin output, where it was asked for."""
        held = self.asked.get(number)
        asked = held.offsets if held else {}
        first = max(next(iter(asked.values()), 0) + shift, 0)
        offsets = [first]
        message: Message = OutputResponse(number, "j", first)

        if of_both:
            offsets = [first, asked.get(Stream.STDERR, 0)]
            message = InterleaveResponse(number, "j", *offsets)

        is_right = held is not None and offsets == [*asked.values()]
        allowed = is_right and not (held and held.is_open)

        if self.server_sends(message, allowed=allowed) and held:
            held.is_open = True

    @rule(number=IDS, size=AMOUNTS, stream=STREAMS, shift=SHIFTS)
    def chunk(self, number: int, size: int, stream: Stream, shift: int) -> None:
        """Send output, within the credit and in its place, or be refused."""
        held = self.asked.get(number)
        offset = max(at(held, stream) + shift, 0)
        allowed = self._may_come(held, stream, offset) and size <= self._granted(held)
        named = held.named(stream) if held else None
        message = OutputChunk(number, offset, b"x" * size, named)

        if self._is_of(held, stream) and self.server_sends(message, allowed=allowed):
            assert held
            held.granted -= size
            held.offsets[stream] += size

    @rule(number=IDS, size=AMOUNTS, stream=STREAMS, shift=SHIFTS)
    def gap(self, number: int, size: int, stream: Stream, shift: int) -> None:
        """Tell of bytes that were not kept: they cost no credit."""
        held = self.asked.get(number)
        offset = max(at(held, stream) + shift, 0)
        allowed = self._may_come(held, stream, offset)
        named = held.named(stream) if held else None
        message = OutputGap(number, offset, offset + size, named)

        if self._is_of(held, stream) and self.server_sends(message, allowed=allowed):
            assert held
            held.offsets[stream] += size

    @rule(number=IDS, shift=SHIFTS, stream=STREAMS)
    def end(self, number: int, shift: int, stream: Stream) -> None:
        """End output, where it has come to."""
        held = self.asked.get(number)
        ends = {**held.offsets} if held else {}
        ends[stream] = max(ends.get(stream, 0) + shift, 0)
        is_right = held is not None and held.is_open and ends == held.offsets
        message: Message = OutputEnd(number, ends[stream], complete=False)

        if held and len(held.offsets) == BOTH:
            stdout, stderr = (ends[each] for each in Stream)
            message = InterleaveEnd(number, stdout, stderr, complete=False)

        if self._is_of(held, stream) and self.server_sends(message, allowed=is_right):
            del self.asked[number]

    @rule()
    def ping(self) -> None:
        """Pings change nothing."""
        self.client_sends(Ping(1), allowed=True)
        self.server_sends(Ping(2), allowed=True)

    @rule()
    def goaway(self) -> None:
        """Nor does a farewell, until the server closes."""
        self.server_sends(Goaway(""), allowed=True)

    @rule(size=st.none() | st.integers(1, 100))
    def carry_up(self, size: int | None) -> None:
        """The server learns what the client did, as far as the bytes go."""
        for message in self.upward.carry(size):
            match message:
                case ClientHello():
                    self.server_is_greeted = True
                case KillRequest(number):
                    self.asked[number] = Asked()
                case OutputRequest(number, _, stream, offset):
                    self.asked[number] = Asked({stream: offset}, message.credit)
                case InterleaveRequest(number, _, stdout, stderr):
                    offsets = {Stream.STDOUT: stdout, Stream.STDERR: stderr}
                    self.asked[number] = Asked(offsets, message.credit)
                case Credit(number, amount) if number in self.asked:
                    self.asked[number].granted += amount
                case _:
                    pass

    @rule(size=st.none() | st.integers(1, 100))
    def carry_down(self, size: int | None) -> None:
        """The client learns what the server did; final answers free their ids."""
        for message in self.downward.carry(size):
            match message:
                case ServerHello():
                    self.client_is_greeted = True
                    self.upward.expected.append(ClientHello(1, "c"))
                case DoneResponse(number) | OutputEnd(number) | InterleaveEnd(number):
                    del self.in_use[number]
                case ErrorResponse(id=int(number)):
                    del self.in_use[number]
                case _:
                    pass

    @invariant()
    def credit_is_as_granted(self) -> None:
        """The server may send exactly what was granted and has arrived."""
        for number, held in self.asked.items():
            assert self.server.credit(number) == held.granted

    @invariant()
    def states_are_as_greeted(self) -> None:
        """Each end is open once it has the other's hello; nobody closes."""
        for end, is_greeted in (
            (self.client, self.client_is_greeted),
            (self.server, self.server_is_greeted),
        ):
            expected = ConnectionState.OPEN if is_greeted else ConnectionState.GREETING
            assert end.state is expected

    def teardown(self) -> None:
        """Whatever was on its way arrives."""
        self.carry_down(None)
        self.carry_up(None)
        self.carry_down(None)

    @staticmethod
    def _is_of(held: Asked | None, stream: Stream) -> bool:
        return held is None or not held.offsets or stream in held.offsets

    @staticmethod
    def _may_come(held: Asked | None, stream: Stream, offset: int) -> bool:
        if held is None or not held.is_open:
            return False

        return stream in held.offsets and offset == held.offsets[stream]

    @staticmethod
    def _granted(held: Asked | None) -> int:
        return held.granted if held else 0


TestConversation = Conversation.TestCase
TestConversation.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
