"""Which messages each side sends, and what may answer a request."""

from collections.abc import Mapping
from typing import Final

from teleworkerd.protocol.errors import RequestError
from teleworkerd.protocol.messages import (
    Cancel,
    ClientHello,
    Credit,
    EventsRequest,
    InfoRequest,
    InputData,
    InputRequest,
    InterleaveRequest,
    KillRequest,
    ListRequest,
    Message,
    OutputRequest,
    Ping,
    Pong,
    RemoveRequest,
    RequestId,
    ResizeRequest,
    RunRequest,
    StatusRequest,
    StopRequest,
    TopRequest,
    WaitRequest,
)
from teleworkerd.protocol.records import record
from teleworkerd.protocol.responses import (
    DoneResponse,
    ErrorResponse,
    EventsEnd,
    EventsResponse,
    Goaway,
    InfoResponse,
    InputEnd,
    InputResponse,
    InputTaken,
    InterleaveEnd,
    InterleaveResponse,
    ListResponse,
    OutputChunk,
    OutputEnd,
    OutputGap,
    OutputResponse,
    RunResponse,
    ServerHello,
    StatusResponse,
    TopEnd,
    UsageSample,
)


@record
class Rejected(Message):
    """A request that was well formed but asks for what cannot be; never sent."""

    type = "rejected"
    id: RequestId
    error: RequestError


RESPONSES: Final[Mapping[type[Message], tuple[type[Message], ...]]] = {
    RunRequest: (RunResponse,),
    StatusRequest: (StatusResponse,),
    WaitRequest: (StatusResponse,),
    ListRequest: (ListResponse,),
    KillRequest: (DoneResponse,),
    StopRequest: (DoneResponse,),
    RemoveRequest: (DoneResponse,),
    OutputRequest: (OutputResponse, OutputChunk, OutputGap, OutputEnd),
    InterleaveRequest: (InterleaveResponse, OutputChunk, OutputGap, InterleaveEnd),
    TopRequest: (UsageSample, TopEnd),
    InputRequest: (InputResponse, InputTaken, InputEnd),
    ResizeRequest: (DoneResponse,),
    EventsRequest: (EventsResponse, EventsEnd),
    InfoRequest: (InfoResponse,),
    Rejected: (),
}
"""What may answer a request, besides an `ErrorResponse`."""

PARTIAL: Final = (
    OutputResponse,
    InterleaveResponse,
    OutputChunk,
    OutputGap,
    UsageSample,
    InputResponse,
    InputTaken,
    EventsResponse,
)
"""Responses after which others to the same request come."""

CLIENT_MESSAGES: Final[tuple[type[Message], ...]] = (
    ClientHello,
    RunRequest,
    StatusRequest,
    WaitRequest,
    ListRequest,
    KillRequest,
    StopRequest,
    RemoveRequest,
    OutputRequest,
    InterleaveRequest,
    TopRequest,
    InputRequest,
    ResizeRequest,
    EventsRequest,
    InfoRequest,
    InputData,
    Credit,
    Cancel,
    Ping,
    Pong,
)

SERVER_MESSAGES: Final[tuple[type[Message], ...]] = (
    ServerHello,
    Goaway,
    ErrorResponse,
    RunResponse,
    StatusResponse,
    ListResponse,
    DoneResponse,
    OutputResponse,
    InterleaveResponse,
    OutputChunk,
    OutputGap,
    OutputEnd,
    InterleaveEnd,
    UsageSample,
    TopEnd,
    InputResponse,
    InputTaken,
    InputEnd,
    EventsResponse,
    EventsEnd,
    InfoResponse,
    Ping,
    Pong,
)
