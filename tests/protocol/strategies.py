"""Hypothesis strategies for messages and records, drawn from their annotations."""

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Annotated, Any, Final, Union, cast

from hypothesis import strategies as st

from teleworkerd.protocol.messages import (
    MAX_GRACE,
    MAX_INTERVAL,
    MIN_INTERVAL,
    InputRequest,
    Message,
    RunRequest,
    StopRequest,
    TopRequest,
)
from teleworkerd.protocol.spec import (
    MAX_CPUS,
    MAX_MEMORY_MB,
    MAX_PIDS,
    MAX_SIDE,
    MAX_TIMEOUT,
    MIN_CPUS,
    MIN_MEMORY_MB,
    JobSpec,
    Limits,
    TerminalSize,
)
from teleworkerd.protocol.types import AtMost, Between, OnFull


Strategy = st.SearchStrategy[Any]

SHORT: Final = 6  # enough for every kind of content; long ones cost time

int64: Final = st.integers(-(1 << 63), (1 << 63) - 1)
finite: Final = st.floats(allow_nan=False, allow_infinity=False)
strings: Final = st.binary(max_size=SHORT).map(lambda data: data.replace(b"\0", b"."))
variables: Final = strings.map(lambda data: b"V" + data.replace(b"=", b"."))
accounts: Final = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,5}\$?", fullmatch=True)
sides: Final = st.integers(1, MAX_SIDE)
names: Final = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,5}", fullmatch=True)

limits: Final = st.builds(
    Limits,
    mem=st.none() | st.integers(MIN_MEMORY_MB, MAX_MEMORY_MB),
    cpu=st.none() | st.integers(1, 100),
    io=st.none() | st.integers(1, 100),
    cpus=st.none() | st.floats(MIN_CPUS, MAX_CPUS),
    pids=st.none() | st.integers(1, MAX_PIDS),
)
specs: Final = st.builds(
    JobSpec,
    command=st.builds(
        lambda program, rest: (program, *rest), variables, st.lists(strings, max_size=3)
    ),
    env=st.dictionaries(variables, strings, max_size=3),
    workdir=st.none() | strings.map(lambda data: b"/" + data),
    limits=limits,
    name=st.none() | names,
    labels=st.dictionaries(names, st.text(max_size=SHORT), max_size=3),
    timeout=st.none() | st.floats(0, MAX_TIMEOUT, exclude_min=True),
    merge=st.booleans(),
    output_limit=st.none() | st.integers(0, (1 << 63) - 1),
    on_full=st.none() | st.sampled_from(OnFull),
    user=st.none() | accounts,
    strict_limits=st.booleans(),
    stdin=st.booleans(),
    tty=st.none() | st.builds(TerminalSize, sides, sides),
    wait_all=st.booleans(),
)

_CHOSEN: Final[dict[object, Strategy]] = {
    JobSpec: specs,
    Limits: limits,
    bool: st.booleans(),
    bytes: st.binary(max_size=SHORT),
    float: finite,
    int: int64,
    str: st.text(max_size=SHORT),
    type(None): st.none(),
}


def values(hint: object) -> Strategy:
    """Return a strategy for values of the type *hint*, within its bounds."""
    if hint in _CHOSEN:
        return _CHOSEN[hint]

    origin, args = typing.get_origin(hint), typing.get_args(hint)

    if origin is not None:
        return _generic(origin, args)

    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(hint)

    assert is_dataclass(hint)
    return records(cast("type", hint))


def _generic(origin: object, args: tuple[Any, ...]) -> Strategy:
    if origin is Annotated:
        return _bounded(args)

    if origin in (Union, types.UnionType):
        return st.one_of(*map(values, args))

    if origin is Mapping:
        return st.dictionaries(values(args[0]), values(args[1]), max_size=3)

    items = st.lists(values(args[0]), max_size=3)
    return items.map(tuple) if origin is tuple else items


def _bounded(args: tuple[Any, ...]) -> Strategy:
    base, mark = args[0], args[-1]

    if isinstance(mark, Between):
        return st.integers(mark.least, mark.most)

    assert isinstance(mark, AtMost)
    assert mark.length >= 3
    return values(base)


def records(cls: type) -> Strategy:
    """Return a strategy for the dataclass *cls*."""
    hints = typing.get_type_hints(cls, include_extras=True)
    arguments = {field.name: values(hints[field.name]) for field in fields(cls)}

    if cls is RunRequest:
        arguments["request_id"] = st.text(min_size=1, max_size=SHORT)
    elif cls is InputRequest:
        arguments["sender"] = st.text(min_size=1, max_size=SHORT)
    elif cls is StopRequest:
        arguments["grace"] = st.none() | st.floats(0, MAX_GRACE)
    elif cls is TopRequest:
        arguments["interval"] = st.floats(MIN_INTERVAL, MAX_INTERVAL)

    return st.builds(cls, **arguments)


def messages(kinds: tuple[type[Message], ...]) -> st.SearchStrategy[Message]:
    """Return a strategy for messages of the *kinds*."""
    return st.one_of(*map(records, kinds))
