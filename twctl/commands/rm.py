"""`twctl rm`: removes jobs that have ended."""

import typer

from teleworkerd.protocol.messages import RemoveRequest
from twctl.commands.choosing import ENDED, FilterTexts, Refs, chosen
from twctl.commands.many import tell_each
from twctl.commands.options import Form, Verb, call_of, output_form
from twctl.render import SCHEMA, OutputForm, print_json


verb = Verb()


@verb
def rm(
    context: typer.Context,
    jobs: Refs = None,
    *,
    filters: FilterTexts = None,
    output: Form = "text",
) -> int:
    """Remove the record and the output of jobs that have ended."""
    form = output_form(output)
    is_json = form is OutputForm.JSON
    removed: list[str] = []
    code = tell_each(
        call_of(context),
        chosen(jobs, filters, states=ENDED),
        RemoveRequest,
        done=removed if is_json else None,
    )

    if is_json:
        print_json({"schema": SCHEMA, "removed": removed})

    return code
