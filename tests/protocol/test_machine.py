"""Whatever client and server do, in any order, a simple model predicts it."""

from dataclasses import dataclass
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from teleworkerd.protocol.connection import Connection
from teleworkerd.protocol.messages import (
    Cancel,
    Credit,
    DoneResponse,
    ErrorResponse,
    KillRequest,
    Message,
    OutputChunk,
    OutputEnd,
    OutputRequest,
    OutputResponse,
    Ping,
)
from tests.protocol.pair import greeted, refuses


IDS: Final = st.integers(0, 3)
AMOUNTS: Final = st.integers(0, 20)


@dataclass
class Asked:
    """What the model knows of a request; the two ends may know different things."""

    reads: bool
    granted: int = 0
    offset: int = 0
    is_open: bool = False


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
        self.client, self.server = greeted()
        self.upward = Wire(self.client, self.server)
        self.downward = Wire(self.server, self.client)
        self.asked: dict[int, Asked] = {}  # as the server knows them
        self.in_use: dict[int, Asked] = {}  # as the client knows them

    def client_sends(self, message: Message, *, allowed: bool) -> bool:
        """Send *message*; the client must refuse it unless it is *allowed*."""
        assert allowed is not refuses(self.client, message)

        if allowed:
            self.upward.expected.append(message)

        return allowed

    def server_sends(self, message: Message, *, allowed: bool) -> bool:
        """Send *message*; the server must refuse it unless it is *allowed*."""
        assert allowed is not refuses(self.server, message)

        if allowed:
            self.downward.expected.append(message)

        return allowed

    @rule(number=IDS)
    def kill(self, number: int) -> None:
        """Ask for something with one response."""
        if self.client_sends(
            KillRequest(number, "j"), allowed=number not in self.in_use
        ):
            self.in_use[number] = Asked(reads=False)

    @rule(number=IDS, offset=AMOUNTS, credit=AMOUNTS)
    def read(self, number: int, offset: int, credit: int) -> None:
        """Subscribe."""
        request = OutputRequest(number, "j", offset=offset, credit=credit)

        if self.client_sends(request, allowed=number not in self.in_use):
            self.in_use[number] = Asked(reads=True, granted=credit, offset=offset)

    @rule(number=IDS, amount=AMOUNTS)
    def grant(self, number: int, amount: int) -> None:
        """Give credit."""
        held = self.in_use.get(number)
        allowed = held is not None and held.reads

        if self.client_sends(Credit(number, amount), allowed=allowed) and held:
            held.granted += amount

    @rule(number=IDS)
    def cancel(self, number: int) -> None:
        """Cancel; the server still answers."""
        self.client_sends(Cancel(number), allowed=number in self.in_use)

    @rule(number=IDS)
    def done(self, number: int) -> None:
        """Response a kill."""
        held = self.asked.get(number)
        allowed = held is not None and not held.reads

        if self.server_sends(DoneResponse(number, "j"), allowed=allowed):
            del self.asked[number]

    @rule(number=IDS)
    def fail(self, number: int) -> None:
        """Response anything with an error."""
        error = ErrorResponse("internal", "", number)

        if self.server_sends(error, allowed=number in self.asked):
            del self.asked[number]

    @rule(number=IDS, shift=st.sampled_from([0, 0, 0, 1]))
    def opened(self, number: int, shift: int) -> None:
        """Begin output."""
        held = self.asked.get(number)
        allowed = held is not None and held.reads and not held.is_open and not shift
        offset = held.offset if held else 0

        if (
            self.server_sends(
                OutputResponse(number, "j", offset + shift), allowed=allowed
            )
            and held
        ):
            held.is_open = True

    @rule(number=IDS, size=AMOUNTS, shift=st.sampled_from([0, 0, 0, 1]))
    def chunk(self, number: int, size: int, shift: int) -> None:
        """Send output, within the credit and without a gap, or be refused."""
        held = self.asked.get(number)
        allowed = held is not None and held.is_open and size <= held.granted
        offset = (held.offset if held else 0) + shift
        message = OutputChunk(number, offset, b"x" * size)

        if self.server_sends(message, allowed=allowed and not shift) and held:
            held.granted -= size
            held.offset += size

    @rule(number=IDS)
    def end(self, number: int) -> None:
        """End output."""
        held = self.asked.get(number)
        allowed = held is not None and held.is_open
        message = OutputEnd(number, held.offset if held else 0, complete=False)

        if self.server_sends(message, allowed=allowed):
            del self.asked[number]

    @rule()
    def ping(self) -> None:
        """Pings change nothing."""
        self.client.send(Ping(1))
        self.server.send(Ping(2))

    @rule(size=st.none() | st.integers(1, 100))
    def carry_up(self, size: int | None) -> None:
        """The server learns what the client did, as far as the bytes go."""
        for message in self.upward.carry(size):
            match message:
                case KillRequest(number):
                    self.asked[number] = Asked(reads=False)
                case OutputRequest(number):
                    self.asked[number] = Asked(
                        reads=True, granted=message.credit, offset=message.offset
                    )
                case Credit(number, amount) if number in self.asked:
                    self.asked[number].granted += amount
                case _:
                    pass

    @rule(size=st.none() | st.integers(1, 100))
    def carry_down(self, size: int | None) -> None:
        """The client learns what the server did; final answers free their ids."""
        for message in self.downward.carry(size):
            match message:
                case DoneResponse(number) | OutputEnd(number):
                    del self.in_use[number]
                case ErrorResponse(id=int(number)):
                    del self.in_use[number]
                case _:
                    pass

    @precondition(lambda self: self.asked)
    @invariant()
    def credit_is_as_granted(self) -> None:
        """The server may send exactly what was granted and has arrived."""
        for number, held in self.asked.items():
            assert self.server.credit(number) == held.granted

    def teardown(self) -> None:
        """Whatever was on its way arrives."""
        self.carry_up(None)
        self.carry_down(None)
        self.carry_up(None)


TestConversation = Conversation.TestCase
TestConversation.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
