"""Between Python values and what msgpack carries, driven by type annotations.

A dataclass is a map of its fields by name; None is left out; an enum is its
value. `AtMost` and `Between` in an annotation are checked on the way in. For each
type both ways are worked out once, as functions.
"""

import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Annotated, Any, Final, Union, cast

from teleworkerd.protocol.errors import RemoteProtocolError
from teleworkerd.protocol.types import AtMost, Between


Reader = Callable[[object, str], Any]

_Read = Callable[[object], Any]
_Dump = Callable[[Any], object]

_INT64: Final = Between(-(1 << 63), (1 << 63) - 1)
_PLAIN: Final = (bool, bytes, float, int, str)


class _Misfit(Exception):
    """A value that does not fit; the path to it is put together on the way up."""

    def __init__(self, problem: str) -> None:
        self.path = ""
        self.problem = problem

    def at(self, name: str) -> "_Misfit":
        self.path = f".{name}{self.path}"
        return self


def dump(value: object) -> object:
    """Return *value* in msgpack's own types."""
    return _dumper(cast("object", type(value)))(value)


@cache
def reader(hint: object) -> Reader:
    """Return the function that makes a value of the type *hint*.

    It is called with what msgpack gave and with the place for the message of
    the `RemoteProtocolError` that it raises when the two do not fit.
    """
    read = _reader(hint)

    def read_at(value: object, where: str) -> object:
        try:
            return read(value)
        except _Misfit as misfit:
            raise RemoteProtocolError(f"{where}{misfit.path}{misfit.problem}") from None

    return read_at


# Out


@cache
def _dumper(cls: object) -> _Dump:
    if not isinstance(cls, type) or cls in _PLAIN:
        return _same

    if issubclass(cls, Enum):
        return lambda value: value.value

    if is_dataclass(cls):
        return _dump_record(cls)

    if issubclass(cls, tuple | list):
        return lambda value: [dump(item) for item in value]

    if issubclass(cls, Mapping):
        return lambda value: {key: dump(item) for key, item in value.items()}

    return _same


def _same(value: object) -> object:
    return value


def _dump_record(cls: type) -> _Dump:
    hints = typing.get_type_hints(cls, include_extras=True)
    names = [field.name for field in fields(cls)]
    plain = frozenset(name for name in names if _is_plain(hints[name]))

    def dump_record(record: object) -> object:
        return {
            name: item if name in plain else dump(item)
            for name in names
            if (item := getattr(record, name)) is not None
        }

    return dump_record


def _is_plain(hint: object) -> bool:
    """Whether msgpack takes every value of the type *hint* as it is."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)

    if origin is Annotated:
        return _is_plain(args[0])

    if origin in (Union, types.UnionType):
        return all(_is_plain(arg) for arg in args)

    return hint in _PLAIN or hint is type(None)


# In


@cache
def _reader(hint: object) -> _Read:
    origin = typing.get_origin(hint)

    if origin is not None:
        return _generic_reader(hint, origin, typing.get_args(hint))

    if isinstance(hint, type) and issubclass(hint, Enum):
        return _enum(hint)

    if is_dataclass(hint):
        return _record(cast("type", hint))

    return _SCALARS[cast("type", hint)]


def _generic_reader(hint: object, origin: object, args: tuple[Any, ...]) -> _Read:
    if origin is Annotated:
        return _bounded(args[0], list(args[1:]))

    if origin in (Union, types.UnionType):
        return _one_of(args)

    if origin in (tuple, list):
        return _sequence(_reader(args[0]), cast("type", origin))

    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(_reader(args[0]), _reader(args[1]))

    raise TypeError(f"no wire form for {hint}")


def _wrong(expected: str, value: object) -> _Misfit:
    return _Misfit(f": {expected} expected, {type(value).__name__} found")


def _scalar(cls: type, name: str) -> _Read:
    def read(value: object) -> object:
        if type(value) is not cls:
            raise _wrong(name, value)

        return value

    return read


def _integer(bounds: Between) -> _Read:
    least, most = bounds.least, bounds.most

    def read(value: object) -> int:
        if type(value) is not int:
            raise _wrong("an integer", value)

        if not least <= value <= most:
            raise _out_of(bounds, value)

        return value

    return read


def _out_of(bounds: Between, value: object) -> _Misfit:
    return _Misfit(f": {value} is not from {bounds.least} to {bounds.most}")


def _read_float(value: object) -> float:
    if type(value) not in (int, float):
        raise _wrong("a number", value)

    number = float(cast("float", value))

    if not math.isfinite(number):
        raise _Misfit(f": {number} is not finite")

    return number


_SCALARS: Final[dict[type, _Read]] = {
    bool: _scalar(bool, "a boolean"),
    str: _scalar(str, "text"),
    bytes: _scalar(bytes, "binary"),
    int: _integer(_INT64),
    float: _read_float,
}


def _bounded(hint: object, marks: list[object]) -> _Read:
    read = _reader(hint)

    for mark in marks:
        if isinstance(mark, AtMost):
            read = _at_most(read, mark.length)
        elif isinstance(mark, Between):
            read = _integer(mark) if hint is int else _between(read, mark)

    return read


def _at_most(inner: _Read, most: int) -> _Read:
    def read(value: object) -> object:
        result = inner(value)

        if len(result) > most:
            raise _Misfit(f": length {len(result)}, the most is {most}")

        return result

    return read


def _between(inner: _Read, bounds: Between) -> _Read:
    def read(value: object) -> object:
        result = inner(value)

        if not bounds.least <= result <= bounds.most:
            raise _out_of(bounds, result)

        return result

    return read


def _one_of(hints: tuple[object, ...]) -> _Read:
    readers = [_reader(hint) for hint in hints if hint is not type(None)]
    optional = type(None) in hints

    if optional and len(readers) == 1:
        only = readers[0]
        return lambda value: None if value is None else only(value)

    def read(value: object) -> object:
        if value is None and optional:
            return None

        for attempt in readers[:-1]:
            try:
                return attempt(value)
            except _Misfit:
                continue

        return readers[-1](value)

    return read


def _sequence(inner: _Read, cls: type) -> _Read:
    def read(value: object) -> object:
        if type(value) is not list:
            raise _wrong("an array", value)

        return cls(map(inner, value))

    return read


def _mapping(key_reader: _Read, value_reader: _Read) -> _Read:
    def read(value: object) -> object:
        if type(value) is not dict:
            raise _wrong("a map", value)

        return {key_reader(key): value_reader(item) for key, item in value.items()}

    return read


def _enum(cls: type[Enum]) -> _Read:
    members = {member.value: member for member in cls}

    def read(value: object) -> object:
        # A nested value must not reach repr, which follows it all the way down.
        if type(value) is not str:
            raise _wrong("text", value)

        try:
            return members[value]
        except KeyError:
            known = ", ".join(map(str, members))
            raise _Misfit(f": {value!r:.80} is none of {known}") from None

    return read


def _record(cls: type) -> _Read:
    hints = typing.get_type_hints(cls, include_extras=True)
    readers = [
        (field.name, _reader(hints[field.name]), _is_required(field))
        for field in fields(cls)
    ]

    def read(value: object) -> object:
        if type(value) is not dict:
            raise _wrong("a map", value)

        found = {}

        for name, read_field, is_required in readers:
            item = value.get(name)

            if item is not None:
                try:
                    found[name] = read_field(item)
                except _Misfit as misfit:
                    raise misfit.at(name) from None
            elif is_required:
                raise _Misfit(" is missing").at(name)

        return cls(**found)

    return read


def _is_required(field: Field[object]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING
