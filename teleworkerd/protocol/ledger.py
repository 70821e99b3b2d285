"""Which requests are in flight on a connection, and what may answer each."""

from dataclasses import dataclass

from teleworkerd.protocol.errors import ProtocolError
from teleworkerd.protocol.messages import (
    RESPONSES,
    ErrorResponse,
    Message,
    OutputChunk,
    OutputEnd,
    OutputRequest,
    OutputResponse,
    Rejected,
    Request,
    Response,
)


@dataclass(slots=True)
class InFlight:
    """A request on its way to its final response.

    `credit` and `offset` are those of an output request: the bytes that may be
    sent now, and where the next chunk begins.
    """

    request: type[Message]
    credit: int = 0
    offset: int = 0
    is_open: bool = False


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

        if isinstance(request, OutputRequest):
            in_flight.credit, in_flight.offset = request.credit, request.offset

        self._requests[request.id] = in_flight

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
            case OutputResponse():
                self._check_offset(response, held, is_open=False)
                held.is_open = True
            case OutputChunk():
                self._check_offset(response, held, is_open=True)
                self._spend(response, held)
            case OutputEnd():
                self._check_offset(response, held, is_open=True)
                del self._requests[request_id]
            case _:
                del self._requests[request_id]

    def _check_offset(
        self,
        response: OutputResponse | OutputChunk | OutputEnd,
        held: InFlight,
        *,
        is_open: bool,
    ) -> None:
        if held.is_open is not is_open:
            when = "after" if held.is_open else "before"
            raise self._answering(
                f"{response.type} for request {response.id} {when} opened"
            )

        if response.offset != held.offset:
            raise self._answering(
                f"{response.type} for request {response.id}"
                f" at offset {response.offset}, not {held.offset}"
            )

    def _spend(self, chunk: OutputChunk, held: InFlight) -> None:
        size = len(chunk.data)

        if size > held.credit:
            raise self._answering(
                f"{size} bytes for request {chunk.id} with {held.credit} credit"
            )

        held.credit -= size
        held.offset += size
