"""`twctl kill`: sends a signal."""

import re
from itertools import pairwise
from typing import Annotated, Any, Final

import typer

from teleworkerd.protocol.messages import KillRequest
from twctl.commands.choosing import FilterTexts, Refs, chosen
from twctl.commands.light import LightCommand
from twctl.commands.many import Action, tell_each
from twctl.commands.options import Form, Verb, call_of, output_form, parsed
from twctl.parsing import parse_signal


_TAKES_NEXT: Final = ("-s", "--signal")
_SIGNAL: Final = re.compile(r"-([0-9]+|[A-Z][A-Z0-9+-]*)")


class KillCommand(LightCommand):
    """Takes `-9` and `-TERM` for signals, as kill(1) does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        options = [
            f"--signal={match[1]}"
            if before not in _TAKES_NEXT and (match := _SIGNAL.fullmatch(arg))
            else arg
            for before, arg in pairwise(["", *args[:end]])
        ]
        return super().parse_args(ctx, [*options, *args[end:]])


verb = Verb(
    "twctl kill build",
    "twctl kill -HUP server              # to its main process",
    "twctl kill --filter label=set=nightly",
    cls=KillCommand,
)


@verb
def kill(  # noqa: PLR0913 - one parameter for each option
    context: typer.Context,
    jobs: Refs = None,
    *,
    filters: FilterTexts = None,
    signal: Annotated[
        str,
        typer.Option(
            "-s", "--signal", metavar="SIG", help="9, KILL or SIGKILL; also -9, -KILL."
        ),
    ] = "KILL",
    tree: Annotated[
        bool, typer.Option("--tree", help="Send it to every process of the job.")
    ] = False,
    output: Form = "text",
) -> int:
    """Kill jobs, with all that they started, or send another signal."""
    form = output_form(output)
    number = parsed(parse_signal, signal, "--signal")
    action = Action(
        lambda request, job: KillRequest(request, job, number, tree), "signalled"
    )
    return tell_each(call_of(context), chosen(jobs, filters), action, form)
