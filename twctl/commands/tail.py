"""`twctl tail`: a job's output."""

from typing import Annotated

import typer

from teleworkerd.protocol.types import Stream
from twctl.commands.options import Ref, Verb, call_of, job_ref, parsed
from twctl.parsing import parse_offset


verb = Verb()


@verb
def tail(  # noqa: PLR0913 - one parameter for each option
    context: typer.Context,
    job: Ref,
    *,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on until the job has ended.")
    ] = False,
    err: Annotated[
        bool, typer.Option("--err", help="stderr instead of stdout.")
    ] = False,
    both: Annotated[
        bool, typer.Option("--all", help="Both, to the matching descriptors.")
    ] = False,
    from_offset: Annotated[
        str, typer.Option(metavar="N", help="From this byte on.")
    ] = "0",
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with the job's code.")
    ] = False,
    no_reconnect: Annotated[
        bool, typer.Option("--no-reconnect", help="End when the connection does.")
    ] = False,
) -> int:
    """Write a job's stdout as it is, from the first byte on."""
    if err and both:
        raise typer.BadParameter("give one of the two", param_hint="'--err' / '--all'")

    if both:
        streams = {Stream.STDOUT: 1, Stream.STDERR: 2}
    else:
        streams = {Stream.STDERR if err else Stream.STDOUT: 1}

    # asyncio would slow down the help of all verbs.
    from twctl.commands.following import Tail, tail_job  # noqa: PLC0415

    wanted = Tail(
        job_ref(job),
        streams,
        offset=parsed(parse_offset, from_offset, "--from-offset"),
        follow=follow,
        exit_code=exit_code,
        reconnect=not no_reconnect,
    )
    return tail_job(call_of(context).profile(), wanted)
