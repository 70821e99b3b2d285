"""`twctl list`: the caller's jobs."""

import functools
import sys
import time
from typing import Annotated

import typer

from teleworkerd.protocol.messages import EVERYBODY, ListRequest
from twctl.blocking import connect
from twctl.commands.choosing import LIVE, read_pages
from twctl.commands.filters import parse_filters
from twctl.commands.options import (
    Form,
    Verb,
    call_of,
    optional,
    output_form,
    parsed,
    refuse_both,
)
from twctl.daily import warn_daily
from twctl.parsing import parse_number, parse_text
from twctl.pretty import list_text
from twctl.render import (
    OutputForm,
    print_json,
    print_line,
    print_text,
    status_object,
)


verb = Verb(
    "twctl list -a --filter label=set=nightly",
    "twctl list --watch",
    "twctl list -aq --filter state=finished | xargs twctl rm",
)


@verb
def list_jobs(  # noqa: PLR0913 - one parameter for each option
    context: typer.Context,
    *,
    show_all: Annotated[
        bool, typer.Option("-a", "--all", help="Those that have ended, too.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="IDs only.")] = False,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="FILTER", help="state=…, label=K=V or name=…"),
    ] = None,
    limit: Annotated[
        str | None, typer.Option(metavar="N", help="At most so many.")
    ] = None,
    owner: Annotated[
        str | None,
        typer.Option(metavar="CN", help="Those of another, if you may see them."),
    ] = None,
    all_owners: Annotated[
        bool, typer.Option("--all-owners", help="Everybody's, if you may see them.")
    ] = False,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Print it again whenever something has changed."),
    ] = False,
    output: Form = "text",
) -> int:
    """List your jobs, newest first."""
    wanted = parsed(parse_filters, filters or [], "--filter")
    most = optional(functools.partial(parse_number, least=1), limit, "--limit")
    form = output_form(output)
    states = wanted.states or (() if show_all else LIVE)
    refuse_both(owner is not None, "--owner", all_owners, "--all-owners")
    whose = EVERYBODY if all_owners else optional(parse_text, owner, "--owner")
    request = ListRequest(0, states, wanted.name, wanted.labels, owner=whose)

    profile = call_of(context).profile()

    if watch:
        refuse_both(quiet, "--quiet", watch, "--watch")

        # It brings asyncio.
        from twctl.commands.telling import watch_list  # noqa: PLC0415

        return watch_list(profile, request, most, form)

    with connect(profile, warn=warn_daily) as session:
        jobs = read_pages(session, request, most)

    if quiet:
        for job in jobs:
            print_line(job.id)
    elif form is OutputForm.JSON:
        print_json([status_object(job) for job in jobs])
    elif sys.stdout.isatty():
        from twctl.commands.table import print_list  # noqa: PLC0415 - it brings rich

        print_list(jobs, now=time.time_ns(), with_owners=whose is not None)
    else:
        others = whose is not None
        print_text(list_text(jobs, now=time.time_ns(), with_owners=others))

    return 0
