"""How to go on with what a lost connection has left undone."""

from collections.abc import Sequence

from teleworkerd.protocol.messages import (
    InterleaveRequest,
    OutputRequest,
    Request,
    RunRequest,
    WaitRequest,
)


def advice(request: Request, commands: Sequence[str] = ()) -> str:
    """Return, as the rest of a sentence, how to go on with *request*, if it can be.

    By *commands* whoever reads output goes on from where that was.
    """
    match request:
        case OutputRequest(job=job) | InterleaveRequest(job=job):
            quoted = (f"'{command}'" for command in commands)
            how = " and ".join(quoted) or "the same command"
        case WaitRequest(job=job):
            how = f"'twctl wait {job}'"
        case RunRequest(request_id=id_):
            return (
                "; whether the job was started is not known: the same command"
                f" with --request-id {id_} starts no second one"
            )
        case _:
            return ""

    return f"; job {job} does not depend on the connection: go on with {how}"
