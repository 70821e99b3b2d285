"""The named servers in the configuration file: read, changed, written."""

import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import date, datetime, time
from pathlib import Path
from typing import Final

from teleworkerd.protocol.errors import TeleworkerError
from twctl.profile import (
    ProfileError,
    Settings,
    contexts_in,
    no_context,
    read_config,
    settings_in,
)


NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_KEYS: Final = tuple(part.name for part in fields(Settings))


class ContextError(TeleworkerError):
    """There is no such context, none can be so, or the file cannot be written."""


@dataclass(frozen=True, slots=True)
class Contexts:
    """What is in the file: the `named` servers, and which is the `current` one.

    `rest` is all else that somebody wrote there; it stays.
    """

    named: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    current: str | None = None
    rest: Mapping[str, object] = field(default_factory=dict)

    def settings(self, name: str, path: Path) -> Settings:
        """Return one, its files as seen from the file at *path*."""
        return settings_in(self.get(name), path, name)

    def get(self, name: str) -> Mapping[str, object]:
        """Return the entries of one; raises `ContextError` if there is none."""
        if name not in self.named:
            raise ContextError(no_context(name, self.named))

        return self.named[name]

    def with_one(self, name: str, settings: Settings) -> "Contexts":
        """Return these, with the parts that *settings* have in the one of that name.

        The first becomes the current one. Raises `ContextError` for no good name, and
        for what the file cannot hold.
        """
        if not NAME.fullmatch(name):
            raise ContextError(
                f"{name!r} is not the name of a context; use 1 to 64 of A-Z a-z 0-9 _"
                " . - and begin with a letter or digit"
            )

        given = {key: getattr(settings, key) for key in _KEYS if getattr(settings, key)}

        for key, value in given.items():
            _check_text(key, value)

        changed = {**self.named.get(name, {}), **given}
        current = self.current or (None if self.named else name)
        return replace(self, named={**self.named, name: changed}, current=current)

    def using(self, name: str) -> "Contexts":
        """Return these with *name* as the current one; raises `ContextError`."""
        if name not in self.named:
            raise ContextError(
                f"{no_context(name, self.named)};"
                f" 'twctl context set {name} --host HOST:PORT …' makes it"
            )

        return replace(self, current=name)

    def without(self, name: str) -> "Contexts":
        """Return these without that one; raises `ContextError`."""
        self.get(name)
        named = {key: value for key, value in self.named.items() if key != name}
        current = None if self.current == name else self.current
        return replace(self, named=named, current=current)


def read_contexts(path: Path) -> Contexts:
    """Return what is in the file at *path*; raises `ProfileError`."""
    config = read_config(path)
    named = contexts_in(config, path)
    current = config.get("current")

    if not isinstance(current, str | None):
        raise ProfileError(f"{path}: current is not text")

    ours = ("contexts", "current")
    rest = {key: value for key, value in config.items() if key not in ours}
    return Contexts(named, current, rest)


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Keep other programs from changing the file at *path* at the same time.

    Raises `ContextError` when nothing can be written there.
    """
    beside = path.with_name(f".{path.name}.lock")

    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(beside, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise _unwritable(path, error) from error

    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def write_contexts(path: Path, contexts: Contexts) -> Path | None:
    """Write the file at *path*, or to which that leads, by rename.

    Comments are lost; then the file from before is kept, and its path returned.
    Raises `ContextError`.
    """
    text = _document(contexts)

    try:
        path = path.resolve()
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        kept = _keep_comments(path)

        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.chmod(0o600)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error

    return kept


def _unwritable(path: Path, error: OSError) -> ContextError:
    return ContextError(
        f"{path} cannot be written: {error.strerror}; have XDG_CONFIG_HOME name a"
        " directory that you may write to"
    )


def _check_text(key: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ContextError(
            f"{key} {value!r} is not valid UTF-8, and cannot stand in the file of"
            " contexts; rename it"
        ) from None


def _keep_comments(path: Path) -> Path | None:
    if not path.exists():
        return None

    before = path.read_text(encoding="utf-8")

    if not any(line.lstrip().startswith("#") for line in before.splitlines()):
        return None

    kept = path.with_name(f"{path.name}.bak")
    kept.write_text(before, encoding="utf-8")
    return kept


def _document(contexts: Contexts) -> str:
    simple = {k: v for k, v in contexts.rest.items() if not isinstance(v, dict)}
    tables = {k: v for k, v in contexts.rest.items() if isinstance(v, dict)}
    lines = []

    if contexts.current is not None:
        lines.append(f"current = {_value(contexts.current)}")

    lines += [f"{_key(name)} = {_value(value)}" for name, value in simple.items()]

    for name, table in tables.items():
        lines += _table(_key(name), table)

    for name, entries in contexts.named.items():
        lines += _table(f"contexts.{_key(name)}", entries)

    return "".join(f"{line}\n" for line in lines)


def _table(header: str, entries: Mapping[str, object]) -> list[str]:
    lines = ["", f"[{header}]"]
    return lines + [
        f"{_key(name)} = {_value(value)}" for name, value in entries.items()
    ]


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _value(name)


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return '"' + "".join(map(_escaped, value)) + '"'
        case list():
            return f"[{', '.join(map(_value, value))}]"
        case dict():
            items = (f"{_key(name)} = {_value(item)}" for name, item in value.items())
            return f"{{{', '.join(items)}}}"
        case datetime() | date() | time():
            return value.isoformat()
        case _:
            return str(value)


def _escaped(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"

    if char.isprintable() or char == " ":
        return char

    return f"\\u{ord(char):04x}" if ord(char) < 1 << 16 else f"\\U{ord(char):08x}"
