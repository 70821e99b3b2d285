"""Both ends of a connection, with somebody who uses them as they may be used."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Final

from teleworkerd.protocol.codec import Registry
from teleworkerd.protocol.connection import (
    FROM_CLIENT,
    FROM_SERVER,
    ClientConnection,
    Connection,
    ServerConnection,
)
from teleworkerd.protocol.messages import (
    MAX_CREDIT,
    Cancel,
    Credit,
    InfoRequest,
    InterleaveRequest,
    KillRequest,
    ListRequest,
    Message,
    OutputRequest,
    Request,
    RunRequest,
    StatusRequest,
    WaitRequest,
)
from teleworkerd.protocol.responses import (
    ErrorResponse,
    InterleaveEnd,
    InterleaveResponse,
    OutputChunk,
    OutputEnd,
    OutputResponse,
    ServerHello,
)
from teleworkerd.protocol.roles import Rejected
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.types import MAX_OFFSET, Stream


FEW: Final = 3  # bytes in a chunk

# With the ids that the test vectors use, so that these are answers to them.
REQUESTS: Final[Sequence[Request]] = (
    RunRequest(1, "r", JobSpec((b"a",))),
    RunRequest(2, "r", JobSpec((b"a",))),
    StatusRequest(3, "j"),
    WaitRequest(4, "j"),
    ListRequest(6),
    KillRequest(7, "j"),
    KillRequest(9, "j"),
    StatusRequest(10, "j"),
    OutputRequest(11, "j", offset=1 << 32, follow=True, credit=100),
    OutputRequest(12, "j", offset=3, credit=MAX_CREDIT),
    InfoRequest(13),
    OutputRequest(14, "j"),
    InterleaveRequest(15, "j", 100, 20, credit=100, since=1, times=True),
)


class End(ABC):
    """One end, and what it says on its own account."""

    connection: Connection
    sends: ClassVar[Registry]

    @abstractmethod
    def answer(self, message: Message) -> None:
        """Act on *message*, within the rules."""


class Asker(End):
    """A client that has asked for one of everything as soon as it may."""

    sends = FROM_CLIENT

    def __init__(self) -> None:
        self.connection = ClientConnection(agent="c")

    def answer(self, message: Message) -> None:
        """Ask after the hello."""
        if isinstance(message, ServerHello):
            limits = message.limits

            for number, request in enumerate(REQUESTS):
                credit = getattr(request, "credit", 0)

                if number < limits.max_requests and credit <= limits.max_credit:
                    self._ask(request, limits.max_frame)

    def _ask(self, request: Request, max_frame: int) -> None:
        if max_frame >= 200:  # more than any of these
            self.connection.send(request)


class Server(End):
    """A server that answers at once, in the ways that keep most in mind."""

    sends = FROM_SERVER

    def __init__(self) -> None:
        self.connection = self._connection = ServerConnection(name="n", server="s")
        self._reading: dict[int, dict[Stream, int]] = {}
        self._waiting: set[int] = set()

    def answer(self, message: Message) -> None:
        """Refuse most; send a few bytes of output where there is credit."""
        match message:
            case OutputRequest(number, job, stream, offset):
                self._reading[number] = {stream: offset}
                self.connection.send(OutputResponse(number, job, offset))
                self._give(number)
            case InterleaveRequest(number, job, stdout, stderr):
                self._reading[number] = {Stream.STDOUT: stdout, Stream.STDERR: stderr}
                self.connection.send(InterleaveResponse(number, job, stdout, stderr))
                self._give(number)
            case WaitRequest(number):
                self._waiting.add(number)
            case Request(number) | Rejected(number):
                self._refuse(number)
            case Credit(number):
                self._give(number)
            case Cancel(number):
                self._end(number)
            case _:
                pass

    def _refuse(self, number: int) -> None:
        self.connection.send(ErrorResponse("internal", "no", number))

    def _give(self, number: int) -> None:
        offsets = self._reading.get(number, {})

        for stream, offset in offsets.items():
            size = min(FEW, self._connection.credit(number), MAX_OFFSET - offset)
            named = stream if len(offsets) > 1 else None
            chunk = OutputChunk(number, offset, b"x" * size, named)
            self.connection.send(chunk)
            offsets[stream] += size

    def _end(self, number: int) -> None:
        if number in self._waiting:
            self._waiting.remove(number)
            self._refuse(number)

        match [*self._reading.pop(number, {}).values()]:
            case [offset]:
                self.connection.send(OutputEnd(number, offset, complete=False))
            case [stdout, stderr]:
                end = InterleaveEnd(number, stdout, stderr, complete=False)
                self.connection.send(end)
            case _:
                pass
