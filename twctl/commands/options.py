"""What several verbs have in common: their options, and what every call carries."""

import functools
import os
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

import typer

from twctl.commands.light import LightCommand, LightGroup
from twctl.parsing import parse_ref
from twctl.profile import Profile, Settings, load_profile
from twctl.render import OutputForm, parse_form, print_warning


T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Call:
    """One call of `twctl`: its global options, and the verb once it is known."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.context: str | None = None
        self.verb: str | None = None

    def profile(self) -> Profile:
        """Return where to connect; raises `ProfileError`."""
        return load_profile(self.settings, context=self.context, warn=print_warning)


class Verb:
    """The application of one verb, without what makes typer slow.

    Decorates the verb's function, whose options are all flags or text. *cls* may read
    them in a way of its own, *examples* are shown at the end of its help.
    """

    def __init__(
        self,
        *examples: str,
        cls: type[LightCommand] = LightCommand,
        **settings: Any,
    ) -> None:
        self._examples = examples
        self._cls = cls
        self._settings = settings
        self.app = typer.Typer(
            add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
        )

    def __call__(self, function: F) -> F:
        # What begins with \b keeps its lines.
        lines = [f"  {line}" for line in self._examples]
        epilog = "\n".join(["\b", "Examples:", *lines])
        self.app.command(
            cls=self._cls,
            context_settings=self._settings,
            epilog=epilog if self._examples else None,
        )(function)
        return function


class VerbGroup:
    """The application of a verb that has verbs of its own."""

    def __init__(self, doc: str) -> None:
        self.app = typer.Typer(
            cls=LightGroup,
            help=doc,
            add_completion=False,
            rich_markup_mode=None,
            pretty_exceptions_enable=False,
        )

    def command(self, name: str) -> Callable[[F], F]:
        """Return what makes a function the verb of that *name*."""
        return self.app.command(name, cls=LightCommand)


def call_of(context: typer.Context) -> Call:
    """Return the call that *context* belongs to."""
    call: Call = context.obj
    return call


def parsed(parse: Callable[[Any], T], value: Any, option: str) -> T:
    """Return *value* parsed; a `ValueError` becomes a usage error of *option*."""
    try:
        return parse(value)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=repr(option)) from error


def refuse_both(one: bool, first: str, other: bool, second: str) -> None:  # noqa: FBT001 - four in a row read best
    """Raise a usage error when the options *first* and *second* are both given."""
    if one and other:
        raise typer.BadParameter(
            "give one of the two", param_hint=f"'{first}' / '{second}'"
        )


def optional(parse: Callable[[str], T], value: str | None, option: str) -> T | None:
    """Return *value* parsed, or None where the option was not given."""
    return None if value is None else parsed(parse, value, option)


_OUTPUT: Final = "TWCTL_OUTPUT"

Form = Annotated[
    str,
    typer.Option(
        "-o",
        "--output",
        envvar=_OUTPUT,
        metavar="text|json",
        help="How to print.",
    ),
]

Ref = Annotated[str, typer.Argument(metavar="JOB", help="An ID, prefix or name.")]

Refs = Annotated[
    list[str], typer.Argument(metavar="JOB...", help="IDs, prefixes or names.")
]

job_ref = functools.partial(parsed, parse_ref, option="JOB")


def output_form(text: str) -> OutputForm:
    """Return the form of that name; raises a usage error."""
    is_set = os.environ.get(_OUTPUT) == text
    return parsed(parse_form, text, _OUTPUT if is_set else "--output")
