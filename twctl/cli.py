"""The `twctl` command: global options, verbs found by name, errors as one line."""

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from teleworkerd import __version__
from teleworkerd.protocol.errors import TeleworkerError
from twctl.commands.light import LightGroup
from twctl.commands.options import Call
from twctl.exit_codes import ExitCode, check_ours, of_error, ours
from twctl.profile import Settings
from twctl.render import print_error, print_line


VERBS: Final = (
    *("run", "attach", "tail", "kill", "stop", "status", "list", "wait", "rm"),
    *("top", "events", "info", "context", "completion"),
)
ALIASES: Final = {"ps": "list", "__complete": "completing"}

_BEFORE_VERB: Final = ("--host", "--ca", "--cert", "--key", "--context")
_TOO_MANY_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE})


class Verbs(LightGroup):
    """Imports the module of a verb only when the verb is asked for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands: Any = dict.fromkeys((*VERBS, *ALIASES))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        del ctx
        verb = ALIASES.get(cmd_name, cmd_name)

        if cmd_name not in {*VERBS, *ALIASES}:
            return None

        module = importlib.import_module(f"twctl.commands.{verb}")
        return typer.main.get_command(module.verb.app)

    def list_commands(self, ctx: Any) -> list[str]:
        del ctx
        return list(VERBS)


app = typer.Typer(
    cls=Verbs,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if wanted:
        print_line(f"twctl {__version__}")
        raise typer.Exit


@app.callback()
def twctl(  # noqa: PLR0913 - the global options
    context: typer.Context,
    *,
    host: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The server.")
    ] = None,
    ca: Annotated[
        str | None, typer.Option(metavar="FILE", help="Who signs the server.")
    ] = None,
    cert: Annotated[
        str | None, typer.Option(metavar="FILE", help="Your certificate.")
    ] = None,
    key: Annotated[str | None, typer.Option(metavar="FILE", help="Its key.")] = None,
    named: Annotated[
        str | None,
        typer.Option("--context", metavar="NAME", help="A server with its files."),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="The version."
        ),
    ] = False,
) -> None:
    """Run commands on a TeleWorker server, and read all that they write.

    Where an option is not given, TWCTL_HOST, TWCTL_CA, TWCTL_CERT, TWCTL_KEY and
    TWCTL_CONTEXT count, then the context.
    """
    del version
    call: Call = context.obj
    call.settings = Settings(host, ca, cert, key)
    call.context = named
    call.verb = context.invoked_subcommand
    check_ours()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one call of `twctl` and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _keep_printing()

    try:
        code = _call(arguments or ["--help"])
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        return ExitCode.STDOUT_CLOSED
    except OSError as error:
        print_error(_explain_failure(error))
        return ours()
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED

    return code


def _call(arguments: list[str]) -> int:
    call = Call()
    command = typer.main.get_command(app)

    try:
        code = command.main(
            args=arguments, prog_name="twctl", standalone_mode=False, obj=call
        )
    except typer.TyperException as error:
        return _explain_usage(error, call)
    except TeleworkerError as error:
        print_error(error)
        return of_error(error, is_run=call.verb == "run")
    except OSError:
        raise
    except SystemExit as error:  # what typer makes of a closed stdout
        raise BrokenPipeError from error
    except MemoryError:
        print_error("there is not enough memory; free some, or raise its limit")
        return ours()
    except Exception as error:  # noqa: BLE001 - never a traceback, as promised
        print_error(f"{type(error).__name__}: {error}; this is a bug of twctl")
        return ours()

    return int(code or ExitCode.OK)


def _explain_usage(error: typer.TyperException, call: Call) -> int:
    what = _describe(error, call)
    verb = f" {call.verb}" if call.verb in {*VERBS, *ALIASES} else ""
    context = getattr(error, "ctx", None)  # not everything knows where it was
    command = f"twctl{verb}" if context is None else context.command_path
    see = " See" if what.endswith("?") else "; see"
    print_error(f"{what}{see} '{command} --help'")
    return ours() if call.verb == "run" else ExitCode.USAGE


def _describe(error: typer.TyperException, call: Call) -> str:
    option = getattr(error, "option_name", None)
    is_unknown = hasattr(error, "possibilities")

    if is_unknown and option in _BEFORE_VERB and call.verb is not None:
        return f"{option} stands before the verb: twctl {option} … {call.verb} …"

    return " ".join(error.format_message().split()).removesuffix(".")


def _explain_failure(error: OSError) -> str:
    why = error.strerror or str(error)

    if error.errno in _TOO_MANY_FILES:
        return f"{why}: close some, or raise the limit ('ulimit -n')"

    if error.filename is not None:
        return f"{error.filename}: {why}"

    # To write takes no other file, and has no name for it.
    _silence_stdout()
    return f"the output cannot be written: {why}"


def _keep_printing() -> None:
    # A locale without some character must not keep a job's name from being shown.
    reconfigure = getattr(sys.stdout, "reconfigure", None)

    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


def _silence_stdout() -> None:
    # Otherwise the interpreter flushes once more at its end, and complains.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
