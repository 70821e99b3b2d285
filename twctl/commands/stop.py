"""`twctl stop`: asks a job to end, then kills it."""

from typing import Annotated, Final

import typer

from teleworkerd.protocol.messages import MAX_GRACE, StopRequest
from twctl.blocking import RESPONSE_TIMEOUT
from twctl.commands.choosing import FilterTexts, Refs, chosen
from twctl.commands.many import Action, tell_each
from twctl.commands.options import Form, Verb, call_of, output_form, parsed
from twctl.parsing import parse_duration


FOR_EVER: Final = "-1"

verb = Verb()


@verb
def stop(
    context: typer.Context,
    jobs: Refs = None,
    *,
    filters: FilterTexts = None,
    time: Annotated[
        str,
        typer.Option(
            "-t", "--time", metavar="SECONDS", help="Grace; -1 means for ever."
        ),
    ] = "10",
    output: Form = "text",
) -> int:
    """End jobs by SIGTERM and, after the grace, by SIGKILL."""
    form = output_form(output)
    grace = parsed(_parse_grace, time, "--time")
    action = Action(
        lambda request, job: StopRequest(request, job, grace),
        "stopped",
        timeout=None if grace is None else grace + RESPONSE_TIMEOUT,
    )
    return tell_each(call_of(context), chosen(jobs, filters), action, form)


def _parse_grace(text: str) -> float | None:
    if text == FOR_EVER:
        return None

    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise ValueError(f"{error}, or {FOR_EVER} for ever") from error

    if seconds > MAX_GRACE:
        raise ValueError(f"{text!r} is too long; the most is {MAX_GRACE:.0f} s")

    return seconds
