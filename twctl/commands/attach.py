"""`twctl attach`: joins a job that runs."""

from typing import Annotated

import typer

from twctl.commands.options import Ref, Verb, call_of, job_ref, optional, output_form
from twctl.parsing import parse_last_lines
from twctl.render import OutputForm


verb = Verb(
    "twctl attach shell",
    "twctl attach -n 0 server            # only what is new",
)


@verb
def attach(  # noqa: PLR0913 - one parameter for each option
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
        bool, typer.Option("--no-stdin", help="Only watch: send it no signals either.")
    ] = False,
    no_reconnect: Annotated[
        bool, typer.Option("--no-reconnect", help="End when the connection does.")
    ] = False,
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", metavar="text|json", help="json: an object a line."
        ),
    ] = "text",
) -> int:
    """Join a job: its output comes here, stdin and signals go there.

    Exits with the job's code. From a job with a terminal, Ctrl-] pressed three times
    comes away; the job goes on. So does Ctrl-C with --no-stdin.
    """
    last = optional(parse_last_lines, lines, "--lines")
    is_json = output_form(output) is OutputForm.JSON

    # asyncio would slow down the help of all verbs.
    from dataclasses import replace  # noqa: PLC0415

    from twctl.commands.following import (  # noqa: PLC0415
        BOTH,
        BOTH_AS_JSON,
        Follow,
        attach,
    )

    copy = BOTH_AS_JSON if is_json else BOTH

    if last is not None:
        copy = replace(copy, wanted=replace(copy.wanted, lines=last))

    how = Follow(
        copy, sends=not no_stdin, forwards=not no_stdin, reconnect=not no_reconnect
    )
    return attach(call_of(context).profile(), job_ref(job), how)
