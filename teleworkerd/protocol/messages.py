"""The messages of protocol.md, one class each."""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, ClassVar, Final

from teleworkerd.protocol.errors import InvalidRequest
from teleworkerd.protocol.records import record
from teleworkerd.protocol.spec import MAX_LABELS, JobSpec, TerminalSize
from teleworkerd.protocol.types import (
    AtMost,
    Between,
    JobState,
    Nanoseconds,
    Offset,
    Stream,
    Word,
)


ALPN: Final = "teleworker/1"
GROUP: Final = "prime256v1"  # of the TLS key exchange, as OpenSSL calls it
VERSION: Final = 1

MAX_CHUNK: Final = 256 << 10
MAX_CREDIT: Final = 64 << 20
MAX_REQUESTS: Final = 256
MAX_ACCOUNTS: Final = 64
MAX_PAGE: Final = 500
MAX_TIMES: Final = 1024  # pairs in a chunk
EVERYBODY: Final = "*"  # as an owner; no certificate has this name
MAX_GRACE: Final = 30 * 86_400.0  # seconds
MIN_INTERVAL: Final = 0.1  # seconds between two samples
MAX_INTERVAL: Final = 3600.0
MAX_WATCHED: Final = 64  # jobs that a request names
MAX_INPUT: Final = 256 << 10  # bytes sent that the job has not taken

RequestId = Annotated[int, Between(0, (1 << 32) - 1)]
Credits = Annotated[int, Between(0, MAX_CREDIT)]
JobRef = Annotated[str, AtMost(64)]
Signal = Annotated[int, Between(1, 64)]


@record
class Message:
    """What one frame holds; `type` is its name on the wire."""

    type: ClassVar[str]


@record
class Request(Message):
    """Something the client asks; `id` is its own and free again once answered."""

    id: RequestId


@record
class Response(Message):
    """Something the server says about the request with this `id`."""

    id: RequestId


# Both ways


@record
class Ping(Message):
    """Asks for a `Pong` with the same number."""

    type = "ping"
    number: Annotated[int, Between(0, (1 << 32) - 1)] = 0


@record
class Pong(Message):
    """Answers a `Ping`."""

    type = "pong"
    number: Annotated[int, Between(0, (1 << 32) - 1)] = 0


# From the client


@record
class ClientHello(Message):
    """Chooses a version; the first message of the client."""

    type = "hello"
    version: int
    agent: Word = ""


@record
class RunRequest(Request):
    """Starts a job, once for each `request_id` of an owner."""

    type = "run"
    request_id: Word
    spec: JobSpec

    def __post_init__(self) -> None:
        if not self.request_id:
            raise InvalidRequest("request_id is empty; give a new UUID for each job")


@record
class StatusRequest(Request):
    """Asks for one job in full."""

    type = "status"
    job: JobRef


@record
class WaitRequest(Request):
    """Like status, but answered when the job has ended."""

    type = "wait"
    job: JobRef


@record
class ListRequest(Request):
    """Asks for a page of the caller's jobs, newest first.

    `states` empty means every state; `before` is the job id where the page
    before ended. `owner` is another one whose jobs are wanted, or `EVERYBODY`,
    for who may see them.
    """

    type = "list"
    states: Annotated[tuple[JobState, ...], AtMost(16)] = ()
    name: Word | None = None
    labels: Annotated[Mapping[Word, Word], AtMost(MAX_LABELS)] = field(
        default_factory=dict
    )
    limit: Annotated[int, Between(1, MAX_PAGE)] = MAX_PAGE
    before: JobRef | None = None
    owner: Word | None = None


@record
class KillRequest(Request):
    """Sends a signal: SIGKILL to the whole tree, others as `tree` says."""

    type = "kill"
    job: JobRef
    signal: Signal = 9
    tree: bool = False


@record
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


@record
class RemoveRequest(Request):
    """Removes a job that has ended, with its output."""

    type = "remove"
    job: JobRef


@record
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


@record
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


@record
class TopRequest(Request):
    """Asks what jobs use, again and again: each `interval` seconds, `count` times.

    `jobs` empty means all of the caller's that run, or of those of `owner`, as in
    `ListRequest`. Without a `count` it goes on until it is cancelled, or until all
    of the `jobs` that were named have ended.
    """

    type = "top"
    jobs: Annotated[tuple[JobRef, ...], AtMost(MAX_WATCHED)] = ()
    interval: float = 1.0
    count: Annotated[int, Between(1, (1 << 31) - 1)] | None = None
    owner: Word | None = None

    def __post_init__(self) -> None:
        if not MIN_INTERVAL <= self.interval <= MAX_INTERVAL:
            raise InvalidRequest(
                f"interval {self.interval:g} s is out of range; it must be from"
                f" {MIN_INTERVAL:g} to {MAX_INTERVAL:g} s"
            )


@record
class InputRequest(Request):
    """Begins to send to a job's stdin, in place of whoever did so before.

    `sender` is made by the client, and new for each run of bytes. With `resume` it
    goes on as the same sender, unless another one has taken its place.
    """

    type = "input"
    job: JobRef
    sender: Word
    resume: bool = False

    def __post_init__(self) -> None:
        if not self.sender:
            raise InvalidRequest("sender is empty; give a new UUID for each input")


@record
class ResizeRequest(Request):
    """Tells a job how large its terminal is now."""

    type = "resize"
    job: JobRef
    size: TerminalSize


@record
class EventsRequest(Request):
    """Asks for what has become of jobs: the news after number `since`.

    Without `follow` up to now. `owner` as in `ListRequest`.
    """

    type = "events"
    since: Offset = 0
    follow: bool = False
    owner: Word | None = None


@record
class InfoRequest(Request):
    """Asks about the server."""

    type = "info"


@record
class Credit(Message):
    """Lets the server send so many bytes more on an output request."""

    type = "credit"
    id: RequestId
    bytes: Credits


@record
class InputData(Message):
    """Bytes for a job's stdin; `offset` is that of the first, `eof` their end.

    No more than `MAX_INPUT` beyond what the job is known to have taken.
    """

    type = "input_data"
    id: RequestId
    offset: Offset
    data: Annotated[bytes, AtMost(MAX_INPUT)] = b""
    eof: bool = False


@record
class Cancel(Message):
    """Asks the server to end a request early; it still answers it."""

    type = "cancel"
    id: RequestId
