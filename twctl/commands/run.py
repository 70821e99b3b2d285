"""`twctl run`: starts a job."""

import os
import sys
from typing import Annotated

import typer

from teleworkerd.protocol.messages import RunRequest
from teleworkerd.protocol.spec import TerminalSize
from twctl.blocking import start
from twctl.commands.options import Form, Verb, call_of, optional, output_form, parsed
from twctl.daily import warn_daily
from twctl.parsing import (
    each,
    parse_bytes,
    parse_count,
    parse_cpus,
    parse_duration,
    parse_env,
    parse_label,
    parse_megabytes,
    parse_on_full,
    parse_percent,
    parse_text,
    read_env_file,
)
from twctl.render import (
    SCHEMA,
    OutputForm,
    not_applied,
    print_json,
    print_line,
    print_notice,
    print_warning,
)
from twctl.spec import build_spec


verb = Verb(
    "twctl run --name build --mem 2g -w /srv/app -- make -j8",
    "twctl run -f -- ./migrate --all     # here, with its exit code",
    "twctl run -f -it -- bash            # at this terminal",
    "tar c src | twctl run -f -i -- tar x -C /srv/app",
    "twctl run --timeout 1h -l set=nightly -e STAGE=2 -- ./report",
    allow_interspersed_args=False,
)


@verb
def run(  # noqa: PLR0913 - one parameter for each option
    context: typer.Context,
    command: Annotated[list[str], typer.Argument(metavar="COMMAND [ARG...]")],
    *,
    follow: Annotated[
        bool,
        typer.Option(
            "-f", "--follow", help="Stream both outputs; exit with the job's code."
        ),
    ] = False,
    mem: Annotated[
        str | None,
        typer.Option(metavar="MB", help="Most memory: 512, 512m, 2g."),
    ] = None,
    cpu: Annotated[
        str | None, typer.Option(metavar="1-100", help="Share of the CPU.")
    ] = None,
    io: Annotated[
        str | None, typer.Option(metavar="1-100", help="Share of I/O.")
    ] = None,
    cpus: Annotated[
        str | None,
        typer.Option(metavar="N", help="Most processors: 0.5, 2, whatever is free."),
    ] = None,
    pids: Annotated[
        str | None, typer.Option(metavar="N", help="Most processes and threads.")
    ] = None,
    strict_limits: Annotated[
        bool,
        typer.Option("--strict-limits", help="Only if each limit can be applied."),
    ] = False,
    timeout: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="End it after 10, 10s, 5m, 1h30m."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="A name to find it by.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("-l", "--label", metavar="K=V", help="A label."),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            "-e", "--env", metavar="K=V|K", help="A variable; K copies ours, if set."
        ),
    ] = None,
    env_file: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Variables, K=V or K on a line each."),
    ] = None,
    workdir: Annotated[
        str | None,
        typer.Option("-w", "--workdir", metavar="DIR", help="Where to run it."),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(
            "-u", "--user", metavar="NAME", help="As whom: an account granted to you."
        ),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="stderr into stdout, in exact order.")
    ] = False,
    output_limit: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Most output kept: 512 (bytes), 10m, 2g."),
    ] = None,
    on_full: Annotated[
        str | None,
        typer.Option(
            metavar="block|drop|kill", help="What happens at the output's limit."
        ),
    ] = None,
    request_id: Annotated[
        str | None,
        typer.Option(metavar="ID", help="The same ID never starts a second job."),
    ] = None,
    stdin: Annotated[
        bool,
        typer.Option(
            "-i", "--stdin", help="Open its stdin; with -f it gets what comes on ours."
        ),
    ] = False,
    tty: Annotated[
        bool, typer.Option("-t", "--tty", help="Give it a terminal: one stream.")
    ] = False,
    wait_all: Annotated[
        bool,
        typer.Option("--wait-all", help="Go on until all that it started has ended."),
    ] = False,
    no_reconnect: Annotated[
        bool, typer.Option("--no-reconnect", help="End when the connection does.")
    ] = False,
    output: Form = "text",
) -> int:
    """Start a job, without a shell, and print its ID.

    The first argument that is no option is the command; what follows is its own.
    """
    spec = build_spec(
        command,
        mem=optional(parse_megabytes, mem, "--mem"),
        cpu=optional(parse_percent, cpu, "--cpu"),
        io=optional(parse_percent, io, "--io"),
        cpus=optional(parse_cpus, cpus, "--cpus"),
        pids=optional(parse_count, pids, "--pids"),
        strict_limits=strict_limits,
        env=_environment(env or [], env_file or [], tty=tty),
        workdir=workdir,
        name=name,
        labels=dict(parsed(each(parse_label), label or [], "--label")),
        timeout=optional(parse_duration, timeout, "--timeout"),
        merge=merge,
        output_limit=optional(parse_bytes, output_limit, "--output-limit"),
        on_full=optional(parse_on_full, on_full, "--on-full"),
        user=optional(parse_text, user, "--user"),
        stdin=stdin,
        tty=_terminal() if tty else None,
        wait_all=wait_all,
    )
    request_id = optional(parse_text, request_id, "--request-id")
    form = output_form(output)
    call = call_of(context)

    if follow:
        # asyncio doubles the time of a detached start.
        from twctl.commands.following import (  # noqa: PLC0415
            BOTH,
            BOTH_AS_JSON,
            Follow,
            run_and_follow,
        )

        how = Follow(
            BOTH_AS_JSON if _is_json_asked_for(context, form) else BOTH,
            sends=stdin,
            has_terminal=tty,
            reconnect=not no_reconnect,
        )
        return run_and_follow(call.profile(), spec, request_id, how)

    request = RunRequest(0, request_id or os.urandom(16).hex(), spec)
    profile = call.profile()
    started = start(profile, request, again=not no_reconnect, warn=warn_daily)
    job = started.job

    for warning in not_applied(started.not_applied):
        print_warning(warning)

    try:
        if form is OutputForm.JSON:
            print_json({"schema": SCHEMA, "id": job})
        else:
            print_line(job)

        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError:
        # Who cannot keep it could not find the job again.
        print_notice(f"job {job} was started")
        raise

    return 0


def _is_json_asked_for(context: typer.Context, form: OutputForm) -> bool:
    # As with tail, a job's bytes stay what they are whatever is in the environment.
    source = context.get_parameter_source("output")
    return (
        form is OutputForm.JSON and source is not None and source.name == "COMMANDLINE"
    )


def _environment(
    texts: list[str], files: list[str], *, tty: bool
) -> dict[bytes, bytes]:
    """Return the variables of the job; those that are given singly win."""
    env: dict[bytes, bytes] = {}

    if tty and b"TERM" in os.environb:
        env[b"TERM"] = os.environb[b"TERM"]

    for file in files:
        env |= parsed(read_env_file, file, "--env-file")

    return env | parsed(parse_env, texts, "--env")


def _terminal() -> TerminalSize:
    # It brings termios.
    from twctl.commands.keyboard import local_size  # noqa: PLC0415

    return local_size() or TerminalSize()
