"""`twctl top`: what running jobs use, live."""

import functools
from dataclasses import replace
from typing import Annotated

import typer

from teleworkerd.protocol.messages import EVERYBODY, TopRequest
from twctl.commands.options import (
    Form,
    Verb,
    call_of,
    job_ref,
    optional,
    output_form,
    parsed,
    refuse_both,
)
from twctl.parsing import each, parse_interval, parse_number, parse_text


_FIRST = 0.5  # seconds between the two samples of a snapshot

verb = Verb(
    "twctl top",
    "twctl top -n 1 build                # once, as a table",
    "twctl top -o json -i 10s",
)


@verb
def top(  # noqa: PLR0913 - one parameter for each option
    context: typer.Context,
    jobs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[JOB...]", help="IDs, prefixes or names; or all."),
    ] = None,
    *,
    count: Annotated[
        str | None,
        typer.Option("-n", "--count", metavar="N", help="So many samples, not live."),
    ] = None,
    interval: Annotated[
        str,
        typer.Option("-i", "--interval", metavar="DURATION", help="Between samples."),
    ] = "1",
    owner: Annotated[
        str | None,
        typer.Option(metavar="CN", help="Those of another, if you may see them."),
    ] = None,
    all_owners: Annotated[
        bool, typer.Option("--all-owners", help="Everybody's, if you may see them.")
    ] = False,
    output: Form = "text",
) -> int:
    """Show what running jobs use: CPU, memory, processes, I/O and output.

    On a terminal it goes on until q or Ctrl-C; else it prints a table for each
    sample, or with -o json an object on a line.
    """
    refuse_both(owner is not None, "--owner", all_owners, "--all-owners")
    most = optional(functools.partial(parse_number, least=1), count, "--count")
    request = TopRequest(
        0,
        tuple(parsed(each(job_ref), jobs or [], "JOB")),
        parsed(parse_interval, interval, "--interval"),
        owner=EVERYBODY if all_owners else optional(parse_text, owner, "--owner"),
    )

    if most == 1:
        request = replace(request, interval=min(request.interval, _FIRST))

    form = output_form(output)
    profile = call_of(context).profile()

    # It brings asyncio, and a terminal brings rich.
    from twctl.commands.watching import watch  # noqa: PLC0415

    return watch(profile, request, most, form)
