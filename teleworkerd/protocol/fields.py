"""Between Python values and what msgpack carries, driven by type annotations.

A dataclass is a map of its fields by name; None is left out; an enum is its
value. `AtMost` and `Between` in an annotation are checked on the way in.
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

_INT64: Final = Between(-(1 << 63), (1 << 63) - 1)


def dump(value: object) -> object:
    """Return *value* in msgpack's own types."""
    if isinstance(value, Enum):
        return value.value

    if is_dataclass(value):
        return {
            name: dump(item)
            for name in _names(cast("object", type(value)))
            if (item := getattr(value, name)) is not None
        }

    if isinstance(value, tuple):
        return [dump(item) for item in value]

    if isinstance(value, Mapping):
        return {key: dump(item) for key, item in value.items()}

    return value


@cache
def reader(hint: object) -> Reader:
    """Return the function that makes a value of the type *hint*.

    It is called with what msgpack gave and with the place for the message of
    the `RemoteProtocolError` that it raises when the two do not fit.
    """
    origin = typing.get_origin(hint)

    if origin is not None:
        return _generic_reader(hint, origin, typing.get_args(hint))

    if isinstance(hint, type) and issubclass(hint, Enum):
        return _enum(hint)

    if is_dataclass(hint):
        return _record(cast("type", hint))

    return _SCALARS[cast("type", hint)]


def _generic_reader(hint: object, origin: object, args: tuple[Any, ...]) -> Reader:
    if origin is Annotated:
        return _bounded(reader(args[0]), list(args[1:]))

    if origin in (Union, types.UnionType):
        return _one_of(args)

    if origin in (tuple, list):
        return _sequence(reader(args[0]), cast("type", origin))

    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(reader(args[0]), reader(args[1]))

    raise TypeError(f"no wire form for {hint}")


@cache
def _names(cls: object) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cast("type", cls)))


def _wrong(where: str, expected: str, value: object) -> RemoteProtocolError:
    return RemoteProtocolError(
        f"{where}: {expected} expected, {type(value).__name__} found"
    )


def _scalar(cls: type, name: str) -> Reader:
    def read(value: object, where: str) -> object:
        if type(value) is not cls:
            raise _wrong(where, name, value)

        return value

    return read


def _read_int(value: object, where: str) -> int:
    if type(value) is not int:
        raise _wrong(where, "an integer", value)

    return _check_between(_INT64, value, where)


def _read_float(value: object, where: str) -> float:
    if type(value) not in (int, float):
        raise _wrong(where, "a number", value)

    number = float(cast("float", value))

    if not math.isfinite(number):
        raise RemoteProtocolError(f"{where}: {number} is not finite")

    return number


def _check_between(bounds: Between, value: int, where: str) -> int:
    if not bounds.least <= value <= bounds.most:
        raise RemoteProtocolError(
            f"{where}: {value} is not from {bounds.least} to {bounds.most}"
        )

    return value


_SCALARS: Final[dict[type, Reader]] = {
    bool: _scalar(bool, "a boolean"),
    str: _scalar(str, "text"),
    bytes: _scalar(bytes, "binary"),
    int: _read_int,
    float: _read_float,
}


def _bounded(inner: Reader, marks: list[object]) -> Reader:
    def read(value: object, where: str) -> object:
        result = inner(value, where)

        for mark in marks:
            if isinstance(mark, Between):
                _check_between(mark, result, where)
            elif isinstance(mark, AtMost) and len(result) > mark.length:
                raise RemoteProtocolError(
                    f"{where}: length {len(result)}, the most is {mark.length}"
                )

        return result

    return read


def _one_of(hints: tuple[object, ...]) -> Reader:
    readers = [reader(hint) for hint in hints if hint is not type(None)]
    optional = type(None) in hints

    def read(value: object, where: str) -> object:
        if value is None and optional:
            return None

        for attempt in readers[:-1]:
            try:
                return attempt(value, where)
            except RemoteProtocolError:
                continue

        return readers[-1](value, where)

    return read


def _sequence(inner: Reader, cls: type) -> Reader:
    def read(value: object, where: str) -> object:
        if type(value) is not list:
            raise _wrong(where, "an array", value)

        return cls(inner(item, where) for item in value)

    return read


def _mapping(key_reader: Reader, value_reader: Reader) -> Reader:
    def read(value: object, where: str) -> object:
        if type(value) is not dict:
            raise _wrong(where, "a map", value)

        return {
            key_reader(key, where): value_reader(item, where)
            for key, item in value.items()
        }

    return read


def _enum(cls: type[Enum]) -> Reader:
    def read(value: object, where: str) -> object:
        # A nested value must not reach repr, which follows it all the way down.
        if type(value) is not str:
            raise _wrong(where, "text", value)

        try:
            return cls(value)
        except ValueError:
            raise RemoteProtocolError(
                f"{where}: {value!r:.80} is not a {cls.__name__}"
            ) from None

    return read


def _record(cls: type) -> Reader:
    hints = typing.get_type_hints(cls, include_extras=True)
    readers = [(field, reader(hints[field.name])) for field in fields(cls)]

    def read(value: object, where: str) -> object:
        if type(value) is not dict:
            raise _wrong(where, "a map", value)

        found = {
            field.name: read_field(value[field.name], f"{where}.{field.name}")
            for field, read_field in readers
            if value.get(field.name) is not None
        }

        for field, _ in readers:
            if field.name not in found and _is_required(field):
                raise RemoteProtocolError(f"{where}.{field.name} is missing")

        return cls(**found)

    return read


def _is_required(field: Field[object]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING
