"""Annotations decide what is taken from the wire."""

from collections.abc import Mapping
from enum import Enum
from typing import Annotated

import pytest

from teleworkerd.protocol.errors import RemoteProtocolError
from teleworkerd.protocol.fields import dump, reader
from teleworkerd.protocol.spec import Limits
from teleworkerd.protocol.status import StreamStatus, Usage
from teleworkerd.protocol.types import AtMost, Between, Stream


NESTED: list[object] = []

for _ in range(5000):
    NESTED = [NESTED]


class Colour(Enum):
    """An enum that is not of text."""

    RED = "red"


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (bool, False),
        (str, "ü"),
        (bytes, b"\xff"),
        (int, -(1 << 63)),
        (int, (1 << 63) - 1),
        (float, 0.5),
        (Annotated[str, AtMost(2)], "üü"),
        (Annotated[int, Between(1, 3)], 3),
        (int | None, None),
        (int | None, 7),
        (str | int | list[str], "a"),
        (str | int | list[str], 1),
        (str | int | list[str], ["a"]),
        (Mapping[bytes, bytes], {b"a": b"b"}),
        (Annotated[Mapping[str, int], AtMost(1)], {"a": 1}),
    ],
)
def test_values_of_the_type_are_taken(hint: object, value: object) -> None:
    """What fits the annotation comes out as it went in."""
    assert value == reader(hint)(value, "here")


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (bool, 0),
        (str, b"a"),
        (bytes, "a"),
        (int, True),
        (int, 1.0),
        (int, 1 << 63),
        (int, -(1 << 63) - 1),
        (float, "1"),
        (float, True),
        (float, float("nan")),
        (float, float("-inf")),
        (Annotated[str, AtMost(2)], "abc"),
        (Annotated[bytes, AtMost(2)], b"abc"),
        (Annotated[tuple[int, ...], AtMost(2)], [1, 2, 3]),
        (Annotated[Mapping[str, int], AtMost(1)], {"a": 1, "b": 2}),
        (Annotated[int, Between(1, 3)], 0),
        (Annotated[int, Between(1, 3)], 4),
        (int, None),
        (int | None, "7"),
        (str | int | list[str], 1.5),
        (str | int | list[str], [1]),
        (tuple[int, ...], {1: 2}),
        (tuple[int, ...], "1"),
        (Mapping[str, int], [1]),
        (Mapping[str, int], {b"a": 1}),
        (Stream, "stdin"),
        (Stream, b"stdout"),
        (Stream, NESTED),
        (Usage, []),
        (Usage, {"cpu_seconds": "1"}),
    ],
)
def test_other_values_are_refused(hint: object, value: object) -> None:
    """What does not fit is a `RemoteProtocolError` that says where."""
    with pytest.raises(RemoteProtocolError, match=r"^here"):
        reader(hint)(value, "here")


def test_the_field_at_fault_is_named() -> None:
    """The message leads to the field, however deep it lies."""
    with pytest.raises(RemoteProtocolError, match=r"^jobs\.stdout\.end: -1 "):
        reader(StreamStatus)({"end": -1}, "jobs.stdout")


def test_an_integer_is_a_number() -> None:
    """A sender may pack 10.0 as 10."""
    number = reader(float)(10, "here")

    assert (float, 10.0) == (type(number), number)


def test_a_tuple_comes_from_an_array() -> None:
    """Arrays become what the annotation says."""
    assert reader(tuple[int, ...])([1, 2], "here") == (1, 2)


def test_unknown_and_nil_fields_are_skipped() -> None:
    """A record ignores what it does not know, and nil is absent."""
    given = {"mem": 100, "cpu": None, "gpu": NESTED}

    assert Limits(mem=100) == reader(Limits)(given, "here")


def test_a_type_without_a_wire_form_is_our_mistake() -> None:
    """An annotation that the wire cannot hold is found at once."""
    with pytest.raises(TypeError, match="no wire form"):
        reader(set[int])


def test_dump_leaves_out_what_is_absent() -> None:
    """None is no field; enums are their values; tuples are arrays."""
    assert dump(Limits(mem=5)) == {"mem": 5}
    assert dump({"a": (Stream.STDERR, Colour.RED)}) == {"a": ["stderr", "red"]}
