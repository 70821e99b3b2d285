"""Frozen dataclasses that are made quickly: every call of `twctl` makes sixty."""

import operator
from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError, dataclass, field, fields
from typing import Any, Final, TypeVar, dataclass_transform


T = TypeVar("T")

_VALUES: Final = "__record_values__"
_NOT_GIVEN: Final = object()


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """Return *cls* as what `dataclass(frozen=True, slots=True)` makes of it.

    All that but `__init__` is shared, and that is made at its first use, where
    dataclasses compile each method of each: that takes eight times as long.
    """
    made = dataclass(init=False, repr=False, eq=False, slots=True)(cls)
    names = [item.name for item in fields(made)]  # type: ignore[arg-type]
    attributes: dict[str, object] = {
        _VALUES: operator.attrgetter(*names) if names else _no_values,
        "__init__": _first_init_of(made),
        "__repr__": _repr,
        "__eq__": _eq,
        "__hash__": _hash,
        "__setattr__": _refuse,
        "__delattr__": _refuse,
        "__setstate__": _set_state,
    }

    for name, value in attributes.items():
        setattr(made, name, value)

    return made


def _first_init_of(cls: type) -> Callable[..., None]:
    """Return what puts the `__init__` of *cls* in its place, and calls it."""
    made: Any = cls

    def first_init(self: Any, *args: Any, **kwargs: Any) -> None:
        made.__init__ = _init_of(cls)
        made.__init__(self, *args, **kwargs)

    return first_init


def _init_of(cls: type) -> Callable[..., None]:
    """Return the `__init__` of *cls*, which passes by its own `__setattr__`."""
    known: dict[str, object] = {"set_": object.__setattr__, "not_given": _NOT_GIVEN}
    parameters, lines = ["self"], []

    for item in fields(cls):
        name = value = item.name

        if item.default_factory is not MISSING:
            known[f"make_{name}"] = item.default_factory
            value = f"make_{name}() if {name} is not_given else {name}"
            parameters.append(f"{name}=not_given")
        elif item.default is not MISSING:
            known[f"default_{name}"] = item.default
            parameters.append(f"{name}=default_{name}")
        else:
            parameters.append(name)

        lines.append(f" set_(self, {name!r}, {value})")

    if hasattr(cls, "__post_init__"):
        lines.append(" self.__post_init__()")

    body = "\n".join(lines or [" pass"])
    exec(f"def __init__({', '.join(parameters)}):\n{body}", known)  # noqa: S102 - of our own names
    init: Any = known["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    return init  # type: ignore[no-any-return]


def _no_values(_: object) -> tuple[()]:
    return ()


def _values(self: Any) -> object:
    return getattr(type(self), _VALUES)(self)


def _repr(self: Any) -> str:
    shown = (f"{item.name}={getattr(self, item.name)!r}" for item in fields(self))
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _eq(self: Any, other: object) -> object:
    if type(other) is not type(self):
        return NotImplemented

    return _values(self) == _values(other)


def _hash(self: Any) -> int:
    return hash((type(self), _values(self)))


def _refuse(self: object, name: str, *_: object) -> None:
    raise FrozenInstanceError(f"{name!r} of a {type(self).__name__} never changes")


def _set_state(self: Any, state: tuple[object, dict[str, object]]) -> None:
    for name, value in state[1].items():
        object.__setattr__(self, name, value)
