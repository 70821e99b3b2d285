"""Which requests are in flight on a connection, and what may answer each."""

import operator
from dataclasses import dataclass, field

from teleworkerd.protocol.errors import ProtocolError
from teleworkerd.protocol.inputs import InputWindow
from teleworkerd.protocol.messages import (
    EventsRequest,
    InputData,
    InputRequest,
    InterleaveRequest,
    Message,
    OutputRequest,
    Request,
    Response,
)
from teleworkerd.protocol.responses import (
    ErrorResponse,
    EventsEnd,
    EventsResponse,
    InputEnd,
    InputResponse,
    InputTaken,
    InterleaveEnd,
    InterleaveResponse,
    OutputChunk,
    OutputEnd,
    OutputGap,
    OutputResponse,
)
from teleworkerd.protocol.roles import PARTIAL, RESPONSES, Rejected
from teleworkerd.protocol.types import MAX_OFFSET, Stream


@dataclass(slots=True)
class InFlight:
    """A request on its way to its final response.

    Of one that reads output, `credit` is how many bytes may be sent now,
    `offsets` where the next chunk of each stream begins, and `may_skip` whether it
    may begin later than it was asked to. Of one that sends input, `window` is how
    far it has come, and of one for events `upto` the last that was told.
    """

    request: type[Message]
    offsets: dict[Stream, int] = field(default_factory=dict)
    credit: int = 0
    may_skip: bool = False
    is_open: bool = False
    window: InputWindow | None = None
    upto: int = 0

    @property
    def reads_output(self) -> bool:
        """Whether chunks answer it."""
        return self.request in (OutputRequest, InterleaveRequest)


class Ledger:
    """The requests in flight; both ends keep one, by the same rules.

    *asking* and *answering* are what is raised when a request or a response
    breaks a rule: at each end, one of the two was its own doing.
    """

    def __init__(
        self, *, asking: type[ProtocolError], answering: type[ProtocolError]
    ) -> None:
        self._asking = asking
        self._answering = answering
        self._requests: dict[int, InFlight] = {}

    def find(self, request_id: int) -> InFlight | None:
        """Return the request in flight with this id, or None."""
        return self._requests.get(request_id)

    def begin(self, request: Request | Rejected, *, most: int) -> None:
        """Add *request*, if there are fewer than *most*."""
        if request.id in self._requests:
            raise self._asking(f"request id {request.id} is in use")

        if len(self._requests) >= most:
            raise self._asking(f"more than {most} requests at once")

        in_flight = InFlight(type(request))

        if isinstance(request, OutputRequest | InterleaveRequest):
            in_flight.offsets = _asked(request)
            in_flight.credit = request.credit
            in_flight.may_skip = request.since is not None
        elif isinstance(request, InputRequest):
            in_flight.window = InputWindow()
        elif isinstance(request, EventsRequest):
            in_flight.upto = request.since

        self._requests[request.id] = in_flight

    def send_input(self, data: InputData) -> None:
        """Take *data* for a request in flight into account."""
        held = self._requests[data.id]

        if held.window is None:
            raise self._asking(f"{data.type} for a {held.request.type} request")

        if (fault := held.window.send(data)) is not None:
            raise self._asking(f"{data.type} for request {data.id} {fault}")

    def answer(self, response: Response | ErrorResponse, request_id: int) -> None:
        """Take *response* into account; a final one ends its request."""
        held = self._requests.get(request_id)

        if held is None:
            raise self._answering(f"{response.type} for request {request_id}, not open")

        if not isinstance(response, (ErrorResponse, *RESPONSES[held.request])):
            raise self._answering(
                f"{response.type} for request {request_id}, a {held.request.type}"
            )

        match response:
            case InputResponse() | InputTaken() | InputEnd():
                self._move_input(response, held)
            case EventsResponse() | EventsEnd():
                self._move_news(response, held)
            case _ if held.reads_output:
                self._read(response, held)
            case _:
                pass

        if not isinstance(response, PARTIAL):
            del self._requests[request_id]

    def _read(self, response: Message, held: InFlight) -> None:
        match response:
            case OutputResponse() | InterleaveResponse():
                self._open(response, held)
            case OutputChunk():
                self._advance(response, held, response.offset + len(response.data))
            case OutputGap():
                self._advance(response, held, response.stop)
            case OutputEnd() | InterleaveEnd():
                self._check_open(response, held, is_open=True)
                self._check_offsets(response, held)
            case _:
                pass

    def _move_input(
        self, response: InputResponse | InputTaken | InputEnd, held: InFlight
    ) -> None:
        window = held.window or InputWindow()

        if isinstance(response, InputResponse):
            fault = window.open(response.offset)
        else:
            fault = window.take(response)

        if fault is not None:
            raise self._answering(f"{response.type} for request {response.id} {fault}")

    def _move_news(self, response: EventsResponse | EventsEnd, held: InFlight) -> None:
        news = response.news if isinstance(response, EventsResponse) else ()
        numbers = [held.upto, *(each.number for each in news)]
        is_in_order = all(map(operator.lt, numbers, numbers[1:]))

        if not is_in_order or response.upto < numbers[-1]:
            raise self._answering(
                f"{response.type} for request {response.id} with numbers out of order"
            )

        held.upto = response.upto

    def _open(
        self, response: OutputResponse | InterleaveResponse, held: InFlight
    ) -> None:
        self._check_open(response, held, is_open=False)

        offsets = _offsets(response, held)

        for stream, offset in offsets.items():
            asked = held.offsets[stream]

            if offset < asked or (offset > asked and not held.may_skip):
                raise self._misplaced(response, offset, asked)

        held.offsets = offsets
        held.is_open = True

    def _advance(
        self, response: OutputChunk | OutputGap, held: InFlight, stop: int
    ) -> None:
        self._check_open(response, held, is_open=True)
        stream = response.stream or next(iter(held.offsets))

        if (response.stream is None) is (len(held.offsets) > 1) or (
            stream not in held.offsets
        ):
            raise self._answering(
                f"{response.type} of {response.stream} for request {response.id}"
            )

        if response.offset != held.offsets[stream] or stop < response.offset:
            raise self._misplaced(response, response.offset, held.offsets[stream])

        if isinstance(response, OutputChunk):
            self._check_chunk(response, stop)
            self._spend(response, held)

        held.offsets[stream] = stop

    def _check_chunk(self, chunk: OutputChunk, stop: int) -> None:
        if stop > MAX_OFFSET:
            raise self._answering(
                f"a chunk for request {chunk.id} up to offset {stop}; no stream"
                f" goes beyond {MAX_OFFSET}"
            )

        if chunk.times and not _are_in_order(chunk.times, chunk.offset, stop):
            raise self._answering(
                f"a chunk for request {chunk.id} whose times are not those of its bytes"
            )

    def _check_offsets(
        self, response: OutputEnd | InterleaveEnd, held: InFlight
    ) -> None:
        for stream, offset in _offsets(response, held).items():
            if offset != held.offsets[stream]:
                raise self._misplaced(response, offset, held.offsets[stream])

    def _check_open(self, response: Response, held: InFlight, *, is_open: bool) -> None:
        if held.is_open is not is_open:
            when = "after" if held.is_open else "before"
            raise self._answering(
                f"{response.type} for request {response.id} {when} opened"
            )

    def _misplaced(
        self, response: Response, offset: int, expected: int
    ) -> ProtocolError:
        return self._answering(
            f"{response.type} for request {response.id}"
            f" at offset {offset}, not {expected}"
        )

    def _spend(self, chunk: OutputChunk, held: InFlight) -> None:
        size = len(chunk.data)

        if size > held.credit:
            raise self._answering(
                f"{size} bytes for request {chunk.id} with {held.credit} credit"
            )

        held.credit -= size


def _are_in_order(times: tuple[int, ...], start: int, stop: int) -> bool:
    """Whether *times* are pairs of which the first belongs to the byte at *start*."""
    offsets = times[::2]
    return (
        len(times) % 2 == 0
        and offsets[0] == start
        and offsets[-1] < stop
        and all(map(operator.lt, offsets, offsets[1:]))
    )


def _asked(request: OutputRequest | InterleaveRequest) -> dict[Stream, int]:
    if isinstance(request, OutputRequest):
        return {request.stream: request.offset}

    return {Stream.STDOUT: request.stdout, Stream.STDERR: request.stderr}


def _offsets(
    response: OutputResponse | InterleaveResponse | OutputEnd | InterleaveEnd,
    held: InFlight,
) -> dict[Stream, int]:
    if isinstance(response, InterleaveResponse | InterleaveEnd):
        return {Stream.STDOUT: response.stdout, Stream.STDERR: response.stderr}

    return dict.fromkeys(held.offsets, response.offset)
