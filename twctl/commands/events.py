"""`twctl events`: what becomes of jobs."""

from typing import Annotated

import typer

from teleworkerd.protocol.messages import EVERYBODY, EventsRequest
from twctl.commands.options import (
    Form,
    Verb,
    call_of,
    optional,
    output_form,
    parsed,
    refuse_both,
)
from twctl.parsing import parse_offset, parse_text


NOW = "now"

verb = Verb(
    "twctl events -f",
    "twctl events -f -o json --since-seq 1207    # what came after that one",
)


@verb
def events(  # noqa: PLR0913 - one parameter for each option
    context: typer.Context,
    *,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on with what comes.")
    ] = False,
    since_seq: Annotated[
        str,
        typer.Option(metavar="N", help="What came after that number, or after now."),
    ] = "0",
    owner: Annotated[
        str | None,
        typer.Option(metavar="CN", help="Those of another, if you may see them."),
    ] = None,
    all_owners: Annotated[
        bool, typer.Option("--all-owners", help="Everybody's, if you may see them.")
    ] = False,
    no_reconnect: Annotated[
        bool, typer.Option("--no-reconnect", help="End when the connection does.")
    ] = False,
    output: Form = "text",
) -> int:
    """Tell what has become of your jobs, a line for each change of state.

    Each has a number, which only grows: give the last one that you have as --since-seq,
    and nothing is missed and nothing told twice, over restarts of the server too.
    """
    refuse_both(owner is not None, "--owner", all_owners, "--all-owners")
    since = parsed(_parse_since, since_seq, "--since-seq")
    request = EventsRequest(
        0,
        since or 0,
        follow,
        owner=EVERYBODY if all_owners else optional(parse_text, owner, "--owner"),
    )
    form = output_form(output)
    profile = call_of(context).profile()

    # It brings asyncio.
    from twctl.commands.telling import tell_news  # noqa: PLC0415

    return tell_news(
        profile, request, form, from_now=since is None, reconnect=not no_reconnect
    )


def _parse_since(text: str) -> int | None:
    """Return the number; None for what comes from now on."""
    if text == NOW:
        return None

    try:
        return parse_offset(text)
    except ValueError as error:
        raise ValueError(f"{error}, nor {NOW!r}") from error
