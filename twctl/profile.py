"""Which server to speak to, and with which files: flags, environment, contexts."""

import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Final, NamedTuple

from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.records import record


DEFAULT_PORT: Final = 7443

_HOST_PORT: Final = re.compile(
    r"(?:\[([^\[\]\s\0]+)\]|([^\[\]:\s\0]+))(?::([0-9]{1,5}))?"
)


class ProfileError(TeleworkerError):
    """It is not clear where to connect, or with what; the message says what to set."""


class BadSetting(ProfileError):
    """A variable of the environment has a value that cannot be."""


@record
class Settings:
    """The parts of a profile as somebody wrote them; None where nobody did."""

    host: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    @property
    def missing(self) -> list[str]:
        """The names that have no value."""
        return [field.name for field in fields(self) if not getattr(self, field.name)]

    def over(self, other: "Settings") -> "Settings":
        """Return these, with those of *other* where these have none."""
        names = [field.name for field in fields(self)]
        return Settings(
            **{name: getattr(self, name) or getattr(other, name) for name in names}
        )


@record
class Profile:
    """One server and the files with which both sides prove who they are.

    `sources` is for messages: which variable or context a part is from, and None
    where an option or a program gave it.
    """

    host: str
    port: int
    ca: Path
    cert: Path
    key: Path
    sources: Settings = Settings()

    @property
    def address(self) -> str:
        """`HOST:PORT`, an IPv6 address in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def file(self, name: str) -> str:
        """Return the file `ca`, `cert` or `key` as messages name it."""
        source, path = getattr(self.sources, name), getattr(self, name)
        flag = "--" if source is None else ""
        return f"{flag}{name} {path}{_in_brackets(source)}"


def load_profile(
    flags: Settings,
    *,
    context: str | None = None,
    environ: Mapping[str, str] = os.environ,
    warn: Callable[[str], None] = lambda _: None,
) -> Profile:
    """Return the profile: flags first, then the environment, then the context.

    *warn* hears what of a context does not count: what is misspelt, and, if it is one
    that was asked for, what the environment has instead. Raises `ProfileError` when a
    part is missing or a context cannot be read.
    """
    from_environ = Settings(**{name: environ.get(_variable(name)) for name in _NAMES})
    settings = flags.over(from_environ)
    name = context or environ.get("TWCTL_CONTEXT") or None
    chosen = None

    if name or settings.missing:
        chosen = _choose(config_path(environ), name)

    if chosen is not None:
        settings = settings.over(chosen.settings)

    if settings.missing:
        raise ProfileError(_say_missing(settings.missing, chosen))

    if chosen is not None:
        for entry in chosen.unknown:
            if guess := _guess(entry, _NAMES):
                warn(f"{chosen}: {entry!r} means nothing; did you mean {guess!r}?")

    if context and chosen is not None:
        _tell_what_goes_before(chosen, flags, from_environ, warn)

    sources = Settings(
        **{name: _source(name, flags, from_environ, chosen) for name in _NAMES}
    )
    host, port = split_address(settings.host or "", source=sources.host)
    ca, cert, key = (
        in_home(getattr(settings, file), source=getattr(sources, file))
        for file in ("ca", "cert", "key")
    )
    return Profile(host, port, ca, cert, key, sources)


class _Chosen(NamedTuple):
    """The context in use, what it says, and the keys in it that mean nothing."""

    name: str
    path: Path
    settings: Settings
    unknown: list[str]

    def __str__(self) -> str:
        return f"context {self.name!r} in {self.path}"


_NAMES: Final = tuple(field.name for field in fields(Settings))
_THINGS: Final = {
    "host": "server",
    "ca": "CA file",
    "cert": "certificate",
    "key": "key",
}
_METAVARS: Final = {"host": "HOST:PORT"}


def config_path(environ: Mapping[str, str]) -> Path:
    """Return where the contexts are kept, whether or not the file exists."""
    home = environ.get("XDG_CONFIG_HOME") or "~/.config"
    return in_home(f"{home}/twctl/config.toml")


def in_home(path: str, *, source: str | None = None) -> Path:
    """Return *path* with a home for the `~` or `~NAME` that it begins with.

    Raises `ProfileError` if nobody knows that; *source* is as with `split_address`.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ProfileError(
            f"{path}{_in_brackets(source)}: there is no such home directory; set HOME,"
            " or write the whole path"
        ) from None


def split_address(text: str, *, source: str | None = None) -> tuple[str, int]:
    """Return host and port of `HOST[:PORT]`; an IPv6 address needs brackets.

    *source* says for the message who gave it, if no option did.
    """
    match = _HOST_PORT.fullmatch(text)
    port = int(match[3] or DEFAULT_PORT) if match else 0
    shown = f"{text!r}{_in_brackets(source)}"

    if match is None or not 0 < port < 1 << 16:
        raise ProfileError(f"{shown} is not HOST:PORT; {_address_hint(text)}")

    host = match[1] or match[2]

    if not _is_name(host):
        raise ProfileError(
            f"{shown} has no host's name; between its dots are 1 to 63 characters"
        )

    return host, port


def _address_hint(text: str) -> str:
    match text.count(":"):
        case 0:
            return f"write it as worker.example.org:{DEFAULT_PORT}"
        case 1:
            return "behind the colon stands a port, a number from 1 to 65535"
        case _:
            return f"write an IPv6 address as [::1]:{DEFAULT_PORT}"


def _is_name(host: str) -> bool:
    """Whether the resolver can be asked for *host*."""
    if host.isascii():
        return all(0 < len(label) < 64 for label in host.removesuffix(".").split("."))

    try:
        host.encode("idna")
    except UnicodeError:
        return False

    return True


def _variable(name: str) -> str:
    return f"TWCTL_{name.upper()}"


def _tell_what_goes_before(
    chosen: _Chosen,
    flags: Settings,
    from_environ: Settings,
    warn: Callable[[str], None],
) -> None:
    others = [
        _variable(name)
        for name in _NAMES
        if not getattr(flags, name)
        and (found := getattr(from_environ, name))
        and (other := getattr(chosen.settings, name))
        and found != other
    ]

    if others:
        count = "count" if len(others) > 1 else "counts"
        warn(f"{_and(others)} of the environment {count}, not context {chosen.name!r}")


def _source(
    name: str, flags: Settings, from_environ: Settings, chosen: _Chosen | None
) -> str | None:
    if getattr(flags, name):
        return None

    if getattr(from_environ, name) or chosen is None:
        return _variable(name)

    return f"context {chosen.name!r}"


def _in_brackets(source: str | None) -> str:
    return "" if source is None else f" ({source})"


def _guess(word: str, known: Collection[str]) -> str | None:
    import difflib  # noqa: PLC0415 - only where there is a mistake

    return next(iter(difflib.get_close_matches(word, known, n=1)), None)


def _say_missing(missing: list[str], chosen: _Chosen | None) -> str:
    things = _and([_THINGS[name] for name in missing])
    flags = _and([f"--{name}" for name in missing])
    variables = _and([*map(_variable, missing)])
    given = f"use {flags}, set {variables}, or"

    if chosen is None:
        return (
            f"no {things} given; {given} choose a context with --context"
            " ('twctl context set' makes one)"
        )

    options = " ".join(f"--{name} {_METAVARS.get(name, 'FILE')}" for name in missing)
    return (
        f"no {things} given, and none in {chosen}{_say_unknown(chosen.unknown)};"
        f" {given} 'twctl context set {chosen.name} {options}'"
    )


def _say_unknown(keys: list[str]) -> str:
    if not keys:
        return ""

    guesses = [repr(guess) for key in keys if (guess := _guess(key, _NAMES))]
    meant = f" (did you mean {_and(guesses)}?)" if guesses else ""
    mean = "mean" if len(keys) > 1 else "means"
    return f", where {_and([*map(repr, keys)])} {mean} nothing{meant}"


def _and(words: list[str]) -> str:
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def _choose(path: Path, name: str | None) -> _Chosen | None:
    """Return the context *name*, or the one in use; None if none is."""
    if name and not path.exists():
        raise ProfileError(
            f"there is no context {name!r}: {path} does not exist;"
            f" 'twctl context set {name} --host HOST:PORT …' makes it"
        )

    config = read_config(path)
    wanted = name or _text(config.get("current"), f"{path}: current")

    if not wanted:
        return None

    contexts = contexts_in(config, path)

    if wanted not in contexts:
        way = (
            "'twctl context use NAME' chooses another"
            if contexts and not name
            else f"'twctl context set {wanted} --host HOST:PORT …' makes it"
        )
        raise ProfileError(
            f"{no_context(wanted, contexts, where=f' in {path}')}; {way}"
        )

    context = contexts[wanted]
    unknown = [key for key in context if key not in _NAMES]
    return _Chosen(wanted, path, settings_in(context, path, wanted), unknown)


def contexts_in(
    config: Mapping[str, object], path: Path
) -> Mapping[str, Mapping[str, object]]:
    """Return the contexts in *config*; raises `ProfileError` for what are none."""
    contexts = config.get("contexts", {})

    if not isinstance(contexts, dict) or not all(
        isinstance(entries, dict) for entries in contexts.values()
    ):
        raise ProfileError(f"{path}: contexts is not a table of tables")

    return contexts


def no_context(name: str, known: Collection[str], *, where: str = "") -> str:
    """Return that there is no context *name*, and which there are."""
    there_are = ", ".join(sorted(known)) or "none"
    guess = _guess(name, known)
    meant = f" (did you mean {guess!r}?)" if guess else ""
    return f"there is no context {name!r}{where}{meant}; there are: {there_are}"


def settings_in(context: Mapping[str, object], path: Path, name: str) -> Settings:
    """Return what the entries of a *context* say, its files as seen from *path*.

    Raises `ProfileError` for what is no text.
    """
    values = {key: _text(context.get(key), f"{path}: {name}.{key}") for key in _NAMES}

    for key in ("ca", "cert", "key"):
        if (file := values[key]) is not None:
            values[key] = str(path.parent / in_home(file, source=f"context {name!r}"))

    return Settings(**values)


def read_config(path: Path) -> dict[str, object]:
    """Return what is in the file of contexts; nothing if there is no such file.

    Raises `ProfileError` when it cannot be read.
    """
    import tomllib  # noqa: PLC0415 - most calls have no use for it, and it is slow

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ProfileError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ProfileError(
            f"{path} is not TOML: {error}; mend it, or move it away and make its"
            " contexts anew with 'twctl context set'"
        ) from error


def _text(value: object, where: str) -> str | None:
    if value is None or isinstance(value, str):
        return value

    raise ProfileError(f"{where} is not text but {type(value).__name__}")
