"""`twctl info`: the server."""

import typer

from teleworkerd.protocol.messages import InfoRequest
from teleworkerd.protocol.responses import InfoResponse
from twctl.blocking import connect
from twctl.commands.options import Form, Verb, call_of, output_form
from twctl.daily import warn_daily
from twctl.pretty import info_text
from twctl.render import (
    OutputForm,
    info_object,
    print_json,
    print_text,
)


verb = Verb()


@verb
def info(context: typer.Context, *, output: Form = "text") -> None:
    """Show the server: version, who it takes you for, limits and load."""
    form = output_form(output)

    with connect(call_of(context).profile(), warn=warn_daily) as session:
        response = session.ask(InfoRequest(0), InfoResponse)

    if form is OutputForm.JSON:
        print_json(info_object(response))
    else:
        print_text(info_text(response))
