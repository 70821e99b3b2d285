"""`twctl wait`: until jobs have ended."""

from typing import Annotated

import typer

from twctl.commands.options import (
    Form,
    Refs,
    Verb,
    call_of,
    job_ref,
    optional,
    output_form,
)
from twctl.parsing import parse_duration


verb = Verb()


@verb
def wait(
    context: typer.Context,
    jobs: Refs,
    *,
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
    from twctl.commands.waiting import wait_for_all  # noqa: PLC0415

    form = output_form(output)
    refs = [job_ref(job) for job in jobs]
    seconds = optional(parse_duration, timeout, "--timeout")
    return wait_for_all(
        call_of(context).profile(), refs, seconds, form, reconnect=not no_reconnect
    )
