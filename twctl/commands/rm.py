"""`twctl rm`: removes jobs that have ended."""

import typer

from teleworkerd.protocol.messages import RemoveRequest
from twctl.commands.choosing import ENDED, FilterTexts, Refs, chosen
from twctl.commands.many import Action, tell_each
from twctl.commands.options import Form, Verb, call_of, output_form


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
    choice = chosen(jobs, filters, states=ENDED)
    action = Action(RemoveRequest, "removed", live=False)
    return tell_each(call_of(context), choice, action, form)
