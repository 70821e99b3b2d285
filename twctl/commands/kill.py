"""`twctl kill`: sends a signal."""

from typing import Annotated

import typer

from teleworkerd.protocol.messages import KillRequest
from twctl.commands.many import tell_each
from twctl.commands.options import Refs, Verb, call_of, parsed
from twctl.parsing import parse_signal


verb = Verb()


@verb
def kill(
    context: typer.Context,
    jobs: Refs,
    *,
    signal: Annotated[
        str,
        typer.Option("-s", "--signal", metavar="SIG", help="9, KILL or SIGKILL."),
    ] = "KILL",
    tree: Annotated[
        bool, typer.Option("--tree", help="Send it to every process of the job.")
    ] = False,
) -> int:
    """Kill jobs, with all that they started, or send another signal."""
    number = parsed(parse_signal, signal, "--signal")
    return tell_each(
        call_of(context),
        jobs,
        lambda request, job: KillRequest(request, job, number, tree),
    )
