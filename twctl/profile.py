"""Which server to speak to, and with which files: flags, environment, contexts."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Final

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
class Profile:
    """One server and the files with which both sides prove who they are."""

    host: str
    port: int
    ca: Path
    cert: Path
    key: Path

    @property
    def address(self) -> str:
        """`HOST:PORT`, an IPv6 address in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


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


def load_profile(
    flags: Settings,
    *,
    context: str | None = None,
    environ: Mapping[str, str] = os.environ,
    warn: Callable[[str], None] = lambda _: None,
) -> Profile:
    """Return the profile: flags first, then the environment, then the context.

    *warn* hears what of a *context* that was asked for does not count. Raises
    `ProfileError` when a part is missing or a context cannot be read.
    """
    from_environ = Settings(**{name: environ.get(_variable(name)) for name in _NAMES})
    settings = flags.over(from_environ)
    name = context or environ.get("TWCTL_CONTEXT") or None

    if name or settings.missing:
        in_context = _read_context(config_path(environ), name)
        settings = settings.over(in_context)

        if context and (others := _that_count_instead(flags, from_environ, in_context)):
            count = "count" if len(others) > 1 else "counts"
            warn(f"{_and(others)} of the environment {count}, not context {context!r}")

    if settings.missing:
        raise ProfileError(_say_missing(settings.missing))

    host, port = split_address(settings.host or "")
    files = (settings.ca, settings.cert, settings.key)
    ca, cert, key = (in_home(file or "") for file in files)
    return Profile(host, port, ca, cert, key)


_NAMES: Final = tuple(field.name for field in fields(Settings))
_THINGS: Final = {
    "host": "server",
    "ca": "CA file",
    "cert": "certificate",
    "key": "key",
}


def config_path(environ: Mapping[str, str]) -> Path:
    """Return where the contexts are kept, whether or not the file exists."""
    home = environ.get("XDG_CONFIG_HOME") or "~/.config"
    return in_home(f"{home}/twctl/config.toml")


def in_home(path: str) -> Path:
    """Return *path* with a home for the `~` or `~NAME` that it begins with.

    Raises `ProfileError` if nobody knows that.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ProfileError(
            f"{path}: there is no such home directory; set HOME, or write the whole"
            " path"
        ) from None


def split_address(text: str) -> tuple[str, int]:
    """Return host and port of `HOST[:PORT]`; an IPv6 address needs brackets."""
    match = _HOST_PORT.fullmatch(text)
    port = int(match[3] or DEFAULT_PORT) if match else 0

    if match is None or not 0 < port < 1 << 16:
        raise ProfileError(
            f"{text!r} is not HOST:PORT; write an IPv6 address as [::1]:{DEFAULT_PORT}"
        )

    host = match[1] or match[2]

    if not _is_name(host):
        raise ProfileError(
            f"{text!r} has no host's name; between its dots are 1 to 63 characters"
        )

    return host, port


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


def _that_count_instead(
    flags: Settings, from_environ: Settings, in_context: Settings
) -> list[str]:
    """Return the variables that say something else than the context."""
    return [
        _variable(name)
        for name in _NAMES
        if not getattr(flags, name)
        and (found := getattr(from_environ, name))
        and (other := getattr(in_context, name))
        and found != other
    ]


def _say_missing(missing: list[str]) -> str:
    things = _and([_THINGS[name] for name in missing])
    flags = _and([f"--{name}" for name in missing])
    variables = _and([*map(_variable, missing)])
    return (
        f"no {things} given; use {flags}, set {variables},"
        " or choose a context with --context ('twctl context set' makes one)"
    )


def _and(words: list[str]) -> str:
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def _read_context(path: Path, name: str | None) -> Settings:
    if name and not path.exists():
        raise ProfileError(
            f"there is no context {name!r}: {path} does not exist;"
            f" 'twctl context set {name} --host HOST:PORT …' makes it"
        )

    config = read_config(path)
    name = name or _text(config.get("current"), f"{path}: current")

    if name is None:
        return Settings()

    contexts = config.get("contexts")
    context = contexts.get(name) if isinstance(contexts, dict) else None

    if not isinstance(context, dict):
        known = ", ".join(sorted(contexts)) if isinstance(contexts, dict) else ""
        raise ProfileError(
            f"there is no context {name!r} in {path}; it has {known or 'none'};"
            f" 'twctl context set {name} --host HOST:PORT …' makes it"
        )

    return settings_in(context, path, name)


def settings_in(context: Mapping[str, object], path: Path, name: str) -> Settings:
    """Return what the entries of a *context* say, its files as seen from *path*.

    Raises `ProfileError` for what is no text.
    """
    values = {key: _text(context.get(key), f"{path}: {name}.{key}") for key in _NAMES}

    for key in ("ca", "cert", "key"):
        if (file := values[key]) is not None:
            values[key] = str(path.parent / in_home(file))

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
    except (OSError, ValueError) as error:
        raise ProfileError(f"{path} cannot be read: {error}") from error


def _text(value: object, where: str) -> str | None:
    if value is None or isinstance(value, str):
        return value

    raise ProfileError(f"{where} is not text but {type(value).__name__}")
