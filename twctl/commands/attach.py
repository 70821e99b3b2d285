"""`twctl attach`: joins a job that runs."""

from typing import Annotated

import typer

from twctl.commands.options import Ref, Verb, call_of, job_ref, optional
from twctl.parsing import parse_last_lines


verb = Verb(
    "twctl attach shell",
    "twctl attach -n 0 server            # only what is new",
)


@verb
def attach(
    context: typer.Context,
    job: Ref,
    *,
    lines: Annotated[
        str | None,
        typer.Option(
            "-n", "--lines", metavar="N", help="The last N lines first; 0: none."
        ),
    ] = None,
    no_stdin: Annotated[
        bool, typer.Option("--no-stdin", help="Send it nothing, only watch.")
    ] = False,
    no_reconnect: Annotated[
        bool, typer.Option("--no-reconnect", help="End when the connection does.")
    ] = False,
) -> int:
    """Join a job: its output comes here, stdin and signals go there.

    Exits with the job's code. From a job with a terminal, Ctrl-] pressed three times
    comes away; the job goes on.
    """
    last = optional(parse_last_lines, lines, "--lines")

    # asyncio would slow down the help of all verbs.
    from dataclasses import replace  # noqa: PLC0415

    from twctl.commands.following import BOTH, Follow, attach  # noqa: PLC0415

    copy = (
        BOTH if last is None else replace(BOTH, wanted=replace(BOTH.wanted, lines=last))
    )
    how = Follow(copy, sends=not no_stdin, reconnect=not no_reconnect)
    return attach(call_of(context).profile(), job_ref(job), how)
