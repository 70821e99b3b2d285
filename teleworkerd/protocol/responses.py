"""What the server of protocol.md sends, one class each message."""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated

from teleworkerd.protocol.errors import Details
from teleworkerd.protocol.framing import MAX_FRAME
from teleworkerd.protocol.messages import (
    MAX_ACCOUNTS,
    MAX_CHUNK,
    MAX_CREDIT,
    MAX_PAGE,
    MAX_REQUESTS,
    MAX_TIMES,
    Credits,
    JobRef,
    Message,
    RequestId,
    Response,
)
from teleworkerd.protocol.records import record
from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import (
    AtMost,
    Between,
    InputEndReason,
    JobState,
    Nanoseconds,
    Offset,
    Reason,
    Role,
    Stream,
    Text,
    Word,
)


@record
class ConnectionLimits:
    """What the server takes at most on this connection."""

    max_frame: Annotated[int, Between(1, MAX_FRAME)] = MAX_FRAME
    max_chunk: Annotated[int, Between(1, MAX_CHUNK)] = MAX_CHUNK
    max_credit: Credits = MAX_CREDIT
    max_requests: Annotated[int, Between(1, MAX_REQUESTS)] = MAX_REQUESTS


@record
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


@record
class Goaway(Message):
    """The server closes the connection; other than at an error, come again."""

    type = "goaway"
    message: Text


@record
class ErrorResponse(Message):
    """A request was refused or, with `id` None, the whole connection."""

    type = "error"
    code: Word
    message: Annotated[str, AtMost(16 << 10)]
    id: RequestId | None = None
    details: Annotated[Details, AtMost(16)] = field(default_factory=dict)


@record
class RunResponse(Response):
    """The job runs, or has run; `created` is false for a repeated request id.

    `not_applied` is as in `JobStatus`.
    """

    type = "started"
    job: JobRef
    created: bool = True
    not_applied: Annotated[Mapping[Word, Text], AtMost(16)] = field(
        default_factory=dict
    )


@record
class StatusResponse(Response):
    """One job in full: answers status and wait."""

    type = "job"
    status: JobStatus


@record
class ListResponse(Response):
    """A page of jobs; `more` means that another page follows."""

    type = "jobs"
    jobs: Annotated[tuple[JobStatus, ...], AtMost(MAX_PAGE)]
    more: bool = False


@record
class DoneResponse(Response):
    """Kill and stop were passed on, or the job had ended; or it was removed."""

    type = "done"
    job: JobRef
    already_ended: bool = False


@record
class OutputResponse(Response):
    """The subscription stands; chunks follow, and at last one `OutputEnd`.

    `offset` is where it begins: as asked, or later because of `since`.
    """

    type = "opened"
    job: JobRef
    offset: Offset


@record
class InterleaveResponse(Response):
    """What `OutputResponse` is, for both streams; at last comes `InterleaveEnd`."""

    type = "interleaving"
    job: JobRef
    stdout: Offset
    stderr: Offset


@record
class OutputChunk(Response):
    """A run of output bytes; `offset` is that of the first.

    `stream` is there where both were asked for. `times` as in `Chunk`.
    """

    type = "chunk"
    offset: Offset
    data: Annotated[bytes, AtMost(MAX_CHUNK)]
    stream: Stream | None = None
    times: Annotated[tuple[Offset, ...], AtMost(2 * MAX_TIMES)] = ()


@record
class OutputGap(Response):
    """Bytes `offset` up to `stop` were dropped; costs no credit."""

    type = "gap"
    offset: Offset
    stop: Offset
    stream: Stream | None = None


@record
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


@record
class InterleaveEnd(Response):
    """What `OutputEnd` is, for both streams."""

    type = "interleaved"
    stdout: Offset
    stderr: Offset
    complete: bool
    status: JobStatus | None = None


@record
class UsageSample(Response):
    """What jobs used up to the time `at`; `more` of the same sample may follow.

    Jobs that have ended since the last sample are there once more.
    """

    type = "sample"
    at: Nanoseconds
    jobs: Annotated[tuple[JobStatus, ...], AtMost(MAX_PAGE)]
    more: bool = False


@record
class TopEnd(Response):
    """The last message of a top request: `count` is reached, or it was cancelled.

    Or all the jobs that it named have ended.
    """

    type = "sampled"


@record
class InputResponse(Response):
    """The caller's bytes are taken now; the first is to have this `offset`."""

    type = "input_opened"
    job: JobRef
    offset: Offset


@record
class InputTaken(Response):
    """The job's stdin has got all bytes before `offset`."""

    type = "taken"
    offset: Offset


@record
class InputEnd(Response):
    """The last message of an input request: why, and how much the job's stdin got.

    It may come in place of `InputResponse`. Of a job that has ended nobody may know
    the `offset` any more; then it is 0.
    """

    type = "input_end"
    offset: Offset
    reason: InputEndReason


@record
class JobNews:
    """What has become of a job: `number` only ever grows.

    Of one that was `removed` the state is its last.
    """

    number: Offset
    at: Nanoseconds
    job: Word
    owner: Word
    state: JobState
    name: Word | None = None
    reason: Reason | None = None
    exit_code: int | None = None
    removed: bool = False


@record
class EventsResponse(Response):
    """Some news, in order; there is no other for the caller up to `upto`.

    `missed` says that what came between `since` and the first of them may have been
    forgotten.
    """

    type = "news"
    news: Annotated[tuple[JobNews, ...], AtMost(MAX_PAGE)]
    upto: Offset
    missed: bool = False


@record
class EventsEnd(Response):
    """The last message of an events request: all up to `upto` was told."""

    type = "events_end"
    upto: Offset


@record
class InfoResponse(Response):
    """What the server says about itself, and of its keeper, which restarts it.

    `limits` says of each limit whether this host can apply it: `yes`, or why not.
    `defaults` are the limits of a job that names none, `ceilings` the most that one
    job (`job_mem`), those of one owner (`owner_mem`), or all (`total_mem`) may ask for.

    `role` is the caller's, `accounts` are those that its jobs may run as, the first
    of them if they name none; empty where the daemon cannot choose. `newest_event` is
    the number of the news that came last.
    """

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
    role: Role = Role.USER
    accounts: Annotated[tuple[Word, ...], AtMost(MAX_ACCOUNTS)] = ()
    defaults: Annotated[Mapping[Word, float], AtMost(16)] = field(default_factory=dict)
    ceilings: Annotated[Mapping[Word, float], AtMost(32)] = field(default_factory=dict)
    newest_event: Offset = 0
