"""`twctl __complete`: what may stand where somebody presses the tabulator."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

import typer

from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.messages import InfoRequest, ListRequest
from teleworkerd.protocol.responses import InfoResponse, ListResponse
from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import JobState, OnFull
from twctl.blocking import BlockingSession, connect
from twctl.commands.choosing import ENDED, LIVE
from twctl.commands.completion import SCRIPTS
from twctl.commands.options import Verb
from twctl.contexts import read_contexts
from twctl.pretty import command_line, shorten
from twctl.profile import Settings, config_path, load_profile
from twctl.render import escape


T = TypeVar("T")

PATIENCE: Final = 1.0  # seconds; then the server has nothing to say

# Which jobs a verb is for, by their states; those that are not here take none.
JOBS: Final[Mapping[str, tuple[JobState, ...]]] = {
    "attach": LIVE,
    "kill": LIVE,
    "stop": LIVE,
    "top": LIVE,
    "wait": LIVE,
    "rm": ENDED,
    "status": (),
    "tail": (),
}
CHOICES: Final[Mapping[str, Sequence[str]]] = {
    "--output": ("text", "json"),
    "--on-full": tuple(OnFull),
    "--filter": tuple(f"state={state}" for state in JobState),
    "--signal": tuple(number.name.removeprefix("SIG") for number in signal.Signals),
}

Candidates = Iterable[tuple[str, str]]
"""Words and what they mean."""

verb = Verb(allow_interspersed_args=False)


@verb
def complete(
    context: typer.Context,
    shell: Annotated[str, typer.Argument()],
    words: Annotated[list[str], typer.Argument()],
) -> int:
    """Print the words that may take the place of the last one.

    Fails where the name of a file may, which the shell knows to complete.
    """
    group: Any = context.find_root().command
    *before, incomplete = words
    completion = Completion(group, context, before, incomplete)

    for word, meaning in completion.candidates():
        if word.startswith(incomplete):
            sys.stdout.write(f"{_shown(shell, escape(word), escape(meaning))}\n")

    return 1 if completion.takes_file() else 0


def _shown(shell: str, word: str, meaning: str) -> str:
    match shell:
        case "zsh":
            return f"{word.replace(':', chr(92) + ':')}:{meaning}"
        case "fish" if meaning:
            return f"{word}\t{meaning}"
        case _:
            return word


@dataclass(slots=True)
class _Place:
    """Where in a call the cursor is."""

    command: Any
    names: list[str]  # of the verbs up to here
    arguments: list[str]
    option: str | None = None  # whose value comes next
    has_options: bool = True  # still: behind `--`, or `run`'s command, are none


class Completion:
    """Finds what may stand in a call of *group*, without making it.

    It comes after the words *before*, and begins with *incomplete*.
    """

    def __init__(
        self, group: Any, context: typer.Context, before: Sequence[str], incomplete: str
    ) -> None:
        self._context = context
        self._settings: dict[str, str] = {}
        self._place = self._walk(group, before)
        self._prefix = ""  # of a value that stands in one word with its option

        name, equals, _ = incomplete.partition("=")
        self._is_option = self._place.has_options and incomplete.startswith("-")

        if equals and self._is_option and self._place.option is None:
            option = self._find(self._place.command, name)

            if option is not None and not option.is_flag:
                self._place.option = option.opts[-1]
                self._prefix = f"{name}="

    def candidates(self) -> Candidates:
        """Return what may stand there, however it begins."""
        place = self._place

        if place.option is not None:
            values = self._values(place.option)
            return ((f"{self._prefix}{word}", meaning) for word, meaning in values)

        if self._is_option:
            return self._options(place.command)

        if hasattr(place.command, "list_commands"):
            return self._verbs(place.command)

        if not self._takes_another(place):
            return ()

        return self._arguments(place)

    def takes_file(self) -> bool:
        """Return whether the name of a file may stand there."""
        place = self._place

        if place.option is not None:
            return self._find(place.command, place.option).metavar in ("FILE", "DIR")

        # A machine that runs jobs is often like the one where they are ordered.
        return place.names == ["run"] and not self._is_option

    def _walk(self, group: Any, words: Sequence[str]) -> _Place:
        place = _Place(group, [], [])

        for word in words:
            if place.option is not None:
                self._settings[place.option] = word
                place.option = None
            elif place.has_options and word == "--":
                place.has_options = False
            elif place.has_options and word.startswith("-") and len(word) > 1:
                name, equals, value = word.partition("=")
                option = self._find(place.command, name)

                if option is not None and not option.is_flag:
                    if equals:
                        self._settings[option.opts[-1]] = value
                    else:
                        place.option = option.opts[-1]
            elif not hasattr(place.command, "get_command"):
                settings = place.command.context_settings
                place.has_options &= settings.get("allow_interspersed_args", True)
                place.arguments.append(word)
            elif (found := self._command(place.command, word)) is not None:
                place.command = found
                place.names.append(word)

        return place

    def _command(self, group: Any, name: str) -> Any:
        return group.get_command(self._context, name)

    def _params(self, command: Any, kind: str) -> Iterator[Any]:
        return (
            param
            for param in command.get_params(self._context)
            if param.param_type_name == kind
        )

    def _takes_another(self, place: _Place) -> bool:
        counts = [param.nargs for param in self._params(place.command, "argument")]
        return -1 in counts or len(place.arguments) < sum(counts)

    def _find(self, command: Any, name: str) -> Any:
        options = self._params(command, "option")
        return next((param for param in options if name in param.opts), None)

    def _options(self, command: Any) -> Candidates:
        for param in self._params(command, "option"):
            for name in param.opts:
                yield name, param.help or ""

    def _verbs(self, group: Any) -> Candidates:
        for name in group.list_commands(self._context):
            yield name, self._command(group, name).get_short_help_str(60)

    def _values(self, option: str) -> Candidates:
        yield from ((word, "") for word in CHOICES.get(option, ()))

        match option:
            case "--context":
                yield from self._contexts()
            case "--filter":
                yield from self._filters()
            case "--user":
                yield from ((word, "") for word in within(PATIENCE, self._accounts))
            case _:
                pass

    def _arguments(self, place: _Place) -> Candidates:
        match place.names:
            case ["context", "use" | "rm" | "set"]:
                contexts = self._contexts()
                return (each for each in contexts if each[0] not in place.arguments)
            case ["completion"]:
                return ((shell, "") for shell in SCRIPTS)
            case [verb] if verb in JOBS:
                return self._jobs(JOBS[verb])
            case _:
                return ()

    def _contexts(self) -> Candidates:
        try:
            contexts = read_contexts(config_path(os.environ))
        except TeleworkerError:
            return

        for name, entries in contexts.named.items():
            yield name, str(entries.get("host", ""))

    def _jobs(self, states: tuple[JobState, ...]) -> Candidates:
        jobs = within(PATIENCE, lambda: self._list(states))

        for job in jobs:
            if {job.id, job.name} & {*self._place.arguments}:
                continue

            yield job.id, f"{job.state}: {shorten(command_line(job))}"

            if job.name is not None:
                yield job.name, f"{job.state}: {shorten(command_line(job))}"

    def _filters(self) -> Candidates:
        found: dict[str, int] = {"label=": 0, "name=": 0}

        for job in within(PATIENCE, lambda: self._list(())):
            texts = [f"label={name}={value}" for name, value in job.labels.items()]

            for text in texts if job.name is None else [*texts, f"name={job.name}"]:
                found[text] = found.get(text, 0) + 1

        for text, count in found.items():
            yield text, "" if not count else "1 job" if count == 1 else f"{count} jobs"

    def _accounts(self) -> Sequence[str]:
        with self._session() as session:
            return session.ask(InfoRequest(0), InfoResponse).accounts

    def _list(self, states: tuple[JobState, ...]) -> Sequence[JobStatus]:
        with self._session() as session:
            # A page is more than anybody looks through.
            return session.ask(ListRequest(0, states, limit=100), ListResponse).jobs

    def _session(self) -> BlockingSession:
        parts = ("--host", "--ca", "--cert", "--key")
        settings = Settings(*(self._settings.get(part) for part in parts))
        profile = load_profile(settings, context=self._settings.get("--context"))
        return connect(profile)


def within(seconds: float, ask: Callable[[], Sequence[T]]) -> Sequence[T]:
    """Return what *ask* returns, nothing if it fails or takes longer."""
    found: list[T] = []

    def look() -> None:
        with suppress(TeleworkerError, OSError):
            found.extend(ask())

    # No signal interrupts the resolver, and a timeout of a socket counts anew with
    # each of its reads. What goes on in a thread ends with the process.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(seconds)
    return tuple(found)
