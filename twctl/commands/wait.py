"""`twctl wait`: until jobs have ended."""

from typing import Annotated

import typer

from twctl.commands.choosing import ALL, FilterTexts, Refs, chosen
from twctl.commands.options import Form, Verb, call_of, optional, output_form
from twctl.parsing import parse_duration


verb = Verb(
    "twctl wait build && twctl run -- ./deploy",
    "twctl wait --any one two            # which, and its code",
    "twctl wait --timeout 10m --filter label=set=nightly",
)


@verb
def wait(  # noqa: PLR0913 - one parameter for each option
    context: typer.Context,
    jobs: Refs = None,
    *,
    filters: FilterTexts = None,
    first: Annotated[
        bool,
        typer.Option("--any", help="Until one has ended: print its ID and its code."),
    ] = False,
    timeout: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Give up, with 124, after 10s, 5m…"),
    ] = None,
    no_reconnect: Annotated[
        bool, typer.Option("--no-reconnect", help="End when the connection does.")
    ] = False,
    output: Form = "text",
) -> int:
    """Wait until jobs have ended; print a code per line, exit with the highest."""
    # asyncio would slow down the help of all verbs.
    from twctl.commands.waiting import Wait, wait_for_jobs  # noqa: PLC0415

    form = output_form(output)
    seconds = optional(parse_duration, timeout, "--timeout")
    wanted = Wait(chosen(jobs, filters, states=ALL), seconds, is_for_any=first)
    return wait_for_jobs(
        call_of(context).profile(), wanted, form, reconnect=not no_reconnect
    )
