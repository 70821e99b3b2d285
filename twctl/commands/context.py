"""`twctl context`: named servers."""

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from twctl.commands.options import Form, VerbGroup, call_of, output_form
from twctl.contexts import (
    ContextError,
    Contexts,
    changing,
    read_contexts,
    write_contexts,
)
from twctl.pretty import table
from twctl.profile import Settings, config_path, in_home, split_address
from twctl.render import (
    SCHEMA,
    OutputForm,
    escape,
    print_json,
    print_line,
    print_notice,
    print_text,
    print_warning,
)


verb = VerbGroup("Name servers, with the files for each, and choose among them.")

Name = Annotated[str, typer.Argument(metavar="NAME")]
CaFile = Annotated[
    str | None, typer.Option(metavar="FILE", help="Who signs the server.")
]
CertFile = Annotated[str | None, typer.Option(metavar="FILE", help="Your certificate.")]
KeyFile = Annotated[str | None, typer.Option(metavar="FILE", help="Its key.")]


@verb.command("ls")
def ls(
    *,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Names only.")] = False,
    output: Form = "text",
) -> int:
    """List the contexts; the one in use has a star."""
    form = output_form(output)
    path = config_path(os.environ)
    contexts = read_contexts(path)
    found = {name: contexts.settings(name, path) for name in sorted(contexts.named)}

    if quiet:
        for name in found:
            print_line(name)
    elif form is OutputForm.JSON:
        print_json([_object(contexts, *item) for item in found.items()])
    else:
        rows = [("", "NAME", "HOST", "CERT")]

        for name, one in found.items():
            star = "*" if name == contexts.current else ""
            host, cert = escape(one.host or "-"), escape(one.cert or "-")
            rows.append((star, escape(name), host, cert))

        print_text(table(rows))

    return 0


@verb.command("use")
def use(name: Name) -> int:
    """Have calls that name no context use this one."""
    path = config_path(os.environ)

    with changing(path):
        _write(path, read_contexts(path).using(name))

    _tell_what_wins(os.environ)
    return 0


@verb.command("set")
def set_(  # noqa: PLR0913 - one parameter for each option
    context: typer.Context,
    name: Name,
    *,
    host: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The server.")
    ] = None,
    ca: CaFile = None,
    cert: CertFile = None,
    key: KeyFile = None,
) -> int:
    """Make a context, or change what is given of it; the first is used from then on."""
    given = Settings(host, ca, cert, key).over(call_of(context).settings)
    path = config_path(os.environ)

    if given == Settings():
        raise typer.BadParameter(
            "give what is to be set", param_hint="--host, --ca, --cert, --key"
        )

    if given.host is not None:
        split_address(given.host)

    files = {
        part: str(_absolute(file))
        for part in ("ca", "cert", "key")
        if (file := getattr(given, part)) is not None
    }

    for part, file in files.items():
        if not Path(file).exists():
            print_warning(f"{part} {file} does not exist yet")

    with changing(path):
        contexts = read_contexts(path).with_one(name, Settings(given.host, **files))
        _write(path, contexts)

    missing = contexts.settings(name, path).missing

    if missing:
        print_notice(f"context {name} has no {', '.join(missing)} yet")

    return 0


@verb.command("rm")
def rm(
    names: Annotated[list[str], typer.Argument(metavar="NAME...")],
) -> int:
    """Remove contexts; the files that they name stay."""
    path = config_path(os.environ)

    with changing(path):
        before = contexts = read_contexts(path)

        for name in names:
            contexts = contexts.without(name)

        _write(path, contexts)

    if before.current is not None and contexts.current is None:
        print_notice(
            f"{before.current} was in use; 'twctl context use NAME' chooses another"
        )

    return 0


def _absolute(file: str) -> Path:
    try:
        return in_home(file).absolute()
    except FileNotFoundError:
        raise ContextError(
            f"{file}: the directory where you are is gone; write the whole path"
        ) from None


def _write(path: Path, contexts: Contexts) -> None:
    if (kept := write_contexts(path, contexts)) is not None:
        print_notice(f"comments are not kept in {path}; {kept} has them")


def _tell_what_wins(environ: Mapping[str, str]) -> None:
    names = [
        "TWCTL_CONTEXT",
        *(f"TWCTL_{part.name.upper()}" for part in fields(Settings)),
    ]

    if winning := [name for name in names if environ.get(name)]:
        print_notice(f"{' and '.join(winning)} in the environment goes before it")


def _object(contexts: Contexts, name: str, settings: Settings) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "name": name,
        "current": name == contexts.current,
        "host": settings.host,
        "ca": settings.ca,
        "cert": settings.cert,
        "key": settings.key,
    }
