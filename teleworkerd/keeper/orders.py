"""What the server tells the keeper over their socket pair: orders, mostly."""

from typing import Annotated, Final

from teleworkerd.execution import Caller, JobIdentity, Postscript
from teleworkerd.keeper.messages import MAX_KEPT
from teleworkerd.protocol.codec import load_record, registry
from teleworkerd.protocol.errors import RemoteProtocolError
from teleworkerd.protocol.messages import MAX_GRACE, MAX_INPUT, Message, Signal
from teleworkerd.protocol.records import record
from teleworkerd.protocol.spec import JobSpec, TerminalSize
from teleworkerd.protocol.types import (
    AtMost,
    Between,
    Offset,
    Reason,
    Text,
    Word,
)


@record
class Launch(Message):
    """Start this; answered by `JobLaunched` or `JobFailed`."""

    type = "launch"
    job: JobIdentity
    spec: JobSpec
    by: Caller | None = None


def load_order(data: bytes) -> Launch:
    """Return the order that stands in a job's directory.

    Raises `RemoteProtocolError` for none, or for one whose end never came to the disk:
    zeros in its place could be taken for values, but no order ends in one.
    """
    if data.endswith(b"\0"):
        raise RemoteProtocolError("its end is missing")

    return load_record(Launch, data)


@record
class SignalJob(Message):
    """Send a signal, as `Execution.signal` has it."""

    type = "signal"
    job: Word
    number: Signal
    tree: bool
    by: Caller | None = None


@record
class StopJob(Message):
    """SIGTERM, later SIGKILL, as `Execution.stop` has it."""

    type = "stop"
    job: Word
    reason: Reason
    grace: Annotated[float, Between(0, MAX_GRACE)] | None = None
    by: Caller | None = None


@record
class SealJob(Message):
    """Add what was found out to a job's exit record; answered by `JobSealed`."""

    type = "seal"
    job: Word
    postscript: Postscript


@record
class RemoveJob(Message):
    """Remove the directory of a job that has ended; answered by `JobGone`."""

    type = "remove"
    job: Word
    by: Caller | None = None


@record
class TakeInput(Message):
    """Let *sender* send to the job's stdin; told by `InputMoved` of this *turn*.

    What those before it have sent and the job has not taken is thrown away.
    """

    type = "take_input"
    job: Word
    turn: Offset
    sender: Word
    by: Caller | None = None


@record
class WriteInput(Message):
    """Bytes for the job's stdin, and perhaps its end; nothing if the turn is over."""

    type = "write_input"
    job: Word
    turn: Offset
    data: Annotated[bytes, AtMost(MAX_INPUT)] = b""
    eof: bool = False


@record
class ResizeTerminal(Message):
    """Change the size of the job's terminal."""

    type = "resize"
    job: Word
    size: TerminalSize


@record
class MeasureJobs(Message):
    """Asks what these jobs use now; answered by `JobsMeasured` with this number."""

    type = "measure"
    number: Offset
    jobs: Annotated[tuple[Word, ...], AtMost(MAX_KEPT)]


@record
class Noted(Message):
    """What the audit log is to have, and the keeper cannot see: who was not let in.

    Or who asked for somebody else's job. `count` is how often.
    """

    type = "noted"
    event: Word
    result: Word
    message: Text
    by: Caller | None = None
    job: Word | None = None
    owner: Word | None = None
    count: int = 1


@record
class Ready(Message):
    """The server takes connections now."""

    type = "ready"


@record
class Alive(Message):
    """The server's loop turns; answers `Probe`."""

    type = "alive"
    number: int


@record
class Reloaded(Message):
    """Answers `Reload`: it is used from now on, or nothing is because of *error*."""

    type = "reloaded"
    error: Text | None = None


FROM_SERVER: Final = registry(
    (
        Launch,
        SignalJob,
        StopJob,
        SealJob,
        RemoveJob,
        TakeInput,
        WriteInput,
        ResizeTerminal,
        MeasureJobs,
        Noted,
        Ready,
        Alive,
        Reloaded,
    )
)
