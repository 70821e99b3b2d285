"""`twctl status`: one job in full."""

import sys
import time
from typing import Annotated

import typer

from teleworkerd.protocol.messages import StatusRequest
from teleworkerd.protocol.responses import StatusResponse
from twctl.blocking import connect
from twctl.commands.options import Form, Ref, Verb, call_of, job_ref, output_form
from twctl.daily import warn_daily
from twctl.exit_codes import job_code
from twctl.pretty import status_text
from twctl.render import (
    OutputForm,
    print_json,
    print_text,
    status_object,
)


verb = Verb(
    "twctl status build",
    "twctl status -o json build | jq .usage",
)


@verb
def status(
    context: typer.Context,
    job: Ref,
    *,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with the job's code.")
    ] = False,
    output: Form = "text",
) -> int:
    """Show one job: state, limits, use, output and how it ended."""
    form = output_form(output)
    request = StatusRequest(0, job_ref(job))

    with connect(call_of(context).profile(), warn=warn_daily) as session:
        found = session.ask(request, StatusResponse).status

    if form is OutputForm.JSON:
        print_json(status_object(found))
    else:
        now = time.time_ns() if sys.stdout.isatty() else None
        print_text(status_text(found, now=now))

    return job_code(found) if exit_code else 0
