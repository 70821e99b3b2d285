"""The messages of protocol.md, one class each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final

from teleworkerd.protocol.errors import Details, InvalidRequest
from teleworkerd.protocol.framing import MAX_FRAME
from teleworkerd.protocol.types import (
    MAX_LABELS,
    AtMost,
    Between,
    JobSpec,
    JobState,
    JobStatus,
    Nanoseconds,
    Offset,
    Stream,
    Text,
    Word,
)


ALPN: Final = "teleworker/1"
VERSION: Final = 1

MAX_CHUNK: Final = 256 << 10
MAX_CREDIT: Final = 64 << 20
MAX_REQUESTS: Final = 256
MAX_PAGE: Final = 500
MAX_TIMES: Final = 1024  # pairs in a chunk
MAX_GRACE: Final = 30 * 86_400.0  # seconds

RequestId = Annotated[int, Between(0, (1 << 32) - 1)]
Credits = Annotated[int, Between(0, MAX_CREDIT)]
JobRef = Annotated[str, AtMost(64)]
Signal = Annotated[int, Between(1, 64)]


@dataclass(frozen=True, slots=True)
class Message:
    """What one frame holds; `type` is its name on the wire."""

    type: ClassVar[str]


@dataclass(frozen=True, slots=True)
class Request(Message):
    """Something the client asks; `id` is its own and free again once answered."""

    id: RequestId


@dataclass(frozen=True, slots=True)
class Response(Message):
    """Something the server says about the request with this `id`."""

    id: RequestId


# Both ways


@dataclass(frozen=True, slots=True)
class Ping(Message):
    """Asks for a `Pong` with the same number."""

    type = "ping"
    number: Annotated[int, Between(0, (1 << 32) - 1)] = 0


@dataclass(frozen=True, slots=True)
class Pong(Message):
    """Answers a `Ping`."""

    type = "pong"
    number: Annotated[int, Between(0, (1 << 32) - 1)] = 0


# From the client


@dataclass(frozen=True, slots=True)
class ClientHello(Message):
    """Chooses a version; the first message of the client."""

    type = "hello"
    version: int
    agent: Word = ""


@dataclass(frozen=True, slots=True)
class RunRequest(Request):
    """Starts a job, once for each `request_id` of an owner."""

    type = "run"
    request_id: Word
    spec: JobSpec

    def __post_init__(self) -> None:
        if not self.request_id:
            raise InvalidRequest("request_id is empty; give a new UUID for each job")


@dataclass(frozen=True, slots=True)
class StatusRequest(Request):
    """Asks for one job in full."""

    type = "status"
    job: JobRef


@dataclass(frozen=True, slots=True)
class WaitRequest(Request):
    """Like status, but answered when the job has ended."""

    type = "wait"
    job: JobRef


@dataclass(frozen=True, slots=True)
class ListRequest(Request):
    """Asks for a page of the caller's jobs, newest first.

    `states` empty means every state; `before` is the job id where the page
    before ended.
    """

    type = "list"
    states: Annotated[tuple[JobState, ...], AtMost(16)] = ()
    name: Word | None = None
    labels: Annotated[Mapping[Word, Word], AtMost(MAX_LABELS)] = field(
        default_factory=dict
    )
    limit: Annotated[int, Between(1, MAX_PAGE)] = MAX_PAGE
    before: JobRef | None = None


@dataclass(frozen=True, slots=True)
class KillRequest(Request):
    """Sends a signal: SIGKILL to the whole tree, others as `tree` says."""

    type = "kill"
    job: JobRef
    signal: Signal = 9
    tree: bool = False


@dataclass(frozen=True, slots=True)
class StopRequest(Request):
    """SIGTERM to the tree, then SIGKILL after `grace` seconds (None: never)."""

    type = "stop"
    job: JobRef
    grace: float | None = None

    def __post_init__(self) -> None:
        if self.grace is not None and not 0 <= self.grace <= MAX_GRACE:
            raise InvalidRequest(
                f"grace {self.grace:g} s is out of range; it must be from 0 to"
                f" {MAX_GRACE:.0f} s, or absent for no end"
            )


@dataclass(frozen=True, slots=True)
class RemoveRequest(Request):
    """Removes a job that has ended, with its output."""

    type = "remove"
    job: JobRef


@dataclass(frozen=True, slots=True)
class OutputRequest(Request):
    """Subscribes to a stream from `offset` on.

    Without `follow` it ends at what there is now. The server sends no more data
    than the credit it was given. Of what came before `since`, or at `until` and
    later, nothing is sent. With `times` the chunks say when their bytes came.
    """

    type = "output"
    job: JobRef
    stream: Stream = Stream.STDOUT
    offset: Offset = 0
    follow: bool = False
    credit: Credits = 0
    since: Nanoseconds | None = None
    until: Nanoseconds | None = None
    times: bool = False


@dataclass(frozen=True, slots=True)
class InterleaveRequest(Request):
    """Subscribes to both streams, from these offsets, in the order of their bytes."""

    type = "interleave"
    job: JobRef
    stdout: Offset = 0
    stderr: Offset = 0
    follow: bool = False
    credit: Credits = 0
    since: Nanoseconds | None = None
    until: Nanoseconds | None = None
    times: bool = False


@dataclass(frozen=True, slots=True)
class InfoRequest(Request):
    """Asks about the server."""

    type = "info"


@dataclass(frozen=True, slots=True)
class Credit(Message):
    """Lets the server send so many bytes more on an output request."""

    type = "credit"
    id: RequestId
    bytes: Credits


@dataclass(frozen=True, slots=True)
class Cancel(Message):
    """Asks the server to end a request early; it still answers it."""

    type = "cancel"
    id: RequestId


# From the server


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What the server takes at most on this connection."""

    max_frame: Annotated[int, Between(1, MAX_FRAME)] = MAX_FRAME
    max_chunk: Annotated[int, Between(1, MAX_CHUNK)] = MAX_CHUNK
    max_credit: Credits = MAX_CREDIT
    max_requests: Annotated[int, Between(1, MAX_REQUESTS)] = MAX_REQUESTS


@dataclass(frozen=True, slots=True)
class ServerHello(Message):
    """The first message on a connection.

    `name` is the CN that the server saw, `time` what its clock shows.
    """

    type = "hello"
    versions: Annotated[tuple[int, ...], AtMost(16)]
    server: Word
    name: Word
    limits: ConnectionLimits = ConnectionLimits()
    time: Nanoseconds | None = None


@dataclass(frozen=True, slots=True)
class Goaway(Message):
    """The server closes the connection; other than at an error, come again."""

    type = "goaway"
    message: Text


@dataclass(frozen=True, slots=True)
class ErrorResponse(Message):
    """A request was refused or, with `id` None, the whole connection."""

    type = "error"
    code: Word
    message: Annotated[str, AtMost(16 << 10)]
    id: RequestId | None = None
    details: Details = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunResponse(Response):
    """The job runs, or has run; `created` is false for a repeated request id."""

    type = "started"
    job: JobRef
    created: bool = True


@dataclass(frozen=True, slots=True)
class StatusResponse(Response):
    """One job in full: answers status and wait."""

    type = "job"
    status: JobStatus


@dataclass(frozen=True, slots=True)
class ListResponse(Response):
    """A page of jobs; `more` means that another page follows."""

    type = "jobs"
    jobs: Annotated[tuple[JobStatus, ...], AtMost(MAX_PAGE)]
    more: bool = False


@dataclass(frozen=True, slots=True)
class DoneResponse(Response):
    """Kill and stop were passed on, or the job had ended; or it was removed."""

    type = "done"
    job: JobRef
    already_ended: bool = False


@dataclass(frozen=True, slots=True)
class OutputResponse(Response):
    """The subscription stands; chunks follow, and at last one `OutputEnd`.

    `offset` is where it begins: as asked, or later because of `since`.
    """

    type = "opened"
    job: JobRef
    offset: Offset


@dataclass(frozen=True, slots=True)
class InterleaveResponse(Response):
    """What `OutputResponse` is, for both streams; at last comes `InterleaveEnd`."""

    type = "interleaving"
    job: JobRef
    stdout: Offset
    stderr: Offset


@dataclass(frozen=True, slots=True)
class OutputChunk(Response):
    """A run of output bytes; `offset` is that of the first.

    `stream` is there where both were asked for. `times` as in `Chunk`.
    """

    type = "chunk"
    offset: Offset
    data: Annotated[bytes, AtMost(MAX_CHUNK)]
    stream: Stream | None = None
    times: Annotated[tuple[Offset, ...], AtMost(2 * MAX_TIMES)] = ()


@dataclass(frozen=True, slots=True)
class OutputGap(Response):
    """Bytes `offset` up to `stop` were dropped; costs no credit."""

    type = "gap"
    offset: Offset
    stop: Offset
    stream: Stream | None = None


@dataclass(frozen=True, slots=True)
class OutputEnd(Response):
    """The last message of an output request.

    `complete` means that the job has ended and `offset` is all that it wrote;
    then `status` is its last status. Otherwise the subscription ended where it
    was asked to: at the present, at `until`, or at a cancel.
    """

    type = "end"
    offset: Offset
    complete: bool
    status: JobStatus | None = None


@dataclass(frozen=True, slots=True)
class InterleaveEnd(Response):
    """What `OutputEnd` is, for both streams."""

    type = "interleaved"
    stdout: Offset
    stderr: Offset
    complete: bool
    status: JobStatus | None = None


@dataclass(frozen=True, slots=True)
class InfoResponse(Response):
    """What the server says about itself, and of its keeper, which restarts it."""

    type = "info"
    version: Word
    name: Word
    started_at: Nanoseconds
    keeper_started_at: Nanoseconds
    restarts: int
    cgroups: Word
    limits: Annotated[Mapping[Word, Text], AtMost(16)]
    jobs: Annotated[Mapping[Word, int], AtMost(16)]
    connections: int
    load: Annotated[tuple[float, ...], AtMost(3)]
