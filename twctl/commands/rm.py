"""`twctl rm`: removes jobs that have ended."""

import typer

from teleworkerd.protocol.messages import RemoveRequest
from twctl.commands.many import tell_each
from twctl.commands.options import Form, Refs, Verb, call_of, output_form
from twctl.render import SCHEMA, OutputForm, print_json


verb = Verb()


@verb
def rm(context: typer.Context, jobs: Refs, *, output: Form = "text") -> int:
    """Remove the record and the output of jobs that have ended."""
    form = output_form(output)
    removed: list[str] = []
    code = tell_each(call_of(context), jobs, RemoveRequest, done=removed)

    if form is OutputForm.JSON:
        print_json({"schema": SCHEMA, "removed": removed})

    return code
