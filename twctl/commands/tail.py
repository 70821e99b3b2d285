"""`twctl tail`: a job's output."""

from typing import Annotated

import typer

from teleworkerd.protocol.types import Stream
from twctl.commands.options import (
    Refs,
    Verb,
    call_of,
    job_ref,
    optional,
    output_form,
    parsed,
    refuse_both,
)
from twctl.parsing import parse_last_bytes, parse_last_lines, parse_offset
from twctl.render import OutputForm


verb = Verb(
    "twctl tail -f build",
    "twctl tail -n 20 -t build           # its last lines, with times",
    "twctl tail --since 10m --interleave build",
    "twctl tail build > build.log",
    "twctl tail -f web db                # the lines of both",
)


@verb
def tail(  # noqa: PLR0913 - one parameter for each option
    context: typer.Context,
    jobs: Refs,
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
    interleave: Annotated[
        bool,
        typer.Option(
            "--interleave",
            help="Both, in the order they were written; on stdout, but for --all.",
        ),
    ] = False,
    lines: Annotated[
        str | None,
        typer.Option(
            "-n", "--lines", metavar="N", help="The last N lines; 0: only new ones."
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("-c", "--bytes", metavar="N", help="The last N bytes; 10k, 2m."),
    ] = None,
    from_offset: Annotated[
        str, typer.Option(metavar="N", help="From this byte on.")
    ] = "0",
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="What came at 2026-01-31T18:00:00Z or later (local without a zone),"
            " at @UNIX, or in the last 10m or 1h30m.",
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="What came before that; with -f, end at that time."
        ),
    ] = None,
    timestamps: Annotated[
        bool,
        typer.Option("-t", "--timestamps", help="When each line came, in UTC."),
    ] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with the job's code.")
    ] = False,
    no_reconnect: Annotated[
        bool, typer.Option("--no-reconnect", help="End when the connection does.")
    ] = False,
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", metavar="text|json", help="json: an object a line."
        ),
    ] = "text",
) -> int:
    """Write a job's stdout as it is, from the first byte on.

    Of several jobs, lines are written, each with the job that it is of before it.
    """
    refuse_both(err, "--err", both, "--all")
    refuse_both(err, "--err", interleave, "--interleave")
    refuse_both(lines is not None, "--lines", size is not None, "--bytes")
    offset = parsed(parse_offset, from_offset, "--from-offset")
    refuse_both(offset > 0, "--from-offset", interleave, "--interleave")
    is_json = output_form(output) is OutputForm.JSON

    # The help of all verbs shall not wait for asyncio, nor for a calendar.
    from twctl.commands.copying import Copy  # noqa: PLC0415
    from twctl.commands.following import Tail, tail_job  # noqa: PLC0415
    from twctl.lookback import Wanted  # noqa: PLC0415
    from twctl.moments import parse_moment  # noqa: PLC0415

    wanted = Wanted(
        offset,
        optional(parse_last_lines, lines, "--lines"),
        optional(parse_last_bytes, size, "--bytes"),
        follow=follow,
        times=timestamps or is_json,
    )

    if both or interleave:
        matching = 2 if both and not is_json else 1
        descriptors = {Stream.STDOUT: 1, Stream.STDERR: matching}
    else:
        descriptors = {Stream.STDERR if err else Stream.STDOUT: 1}

    what = Tail(
        tuple(dict.fromkeys(job_ref(job) for job in jobs)),
        Copy(descriptors, wanted, interleave, is_json),
        optional(parse_moment, since, "--since"),
        optional(parse_moment, until, "--until"),
        exit_code=exit_code,
        reconnect=not no_reconnect,
    )
    return tail_job(call_of(context).profile(), what)
