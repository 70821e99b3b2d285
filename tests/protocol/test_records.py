"""Records are what frozen dataclasses are, made quickly."""

import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from typing import ClassVar

import pytest

from teleworkerd.protocol.records import record


@record
class Place:
    """Where something is."""

    kind: ClassVar[str] = "place"

    name: str
    level: int = 0
    tags: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.level < 0:
            raise ValueError(self.level)


@record
class Room(Place):
    """A place in a house."""

    door: str = "open"


@record
class Nothing:
    """Has no field."""


@dataclass(frozen=True, slots=True)
class Usual:
    """What the standard library makes."""

    name: str
    level: int = 0


def test_fields_and_defaults() -> None:
    """Arguments go by position or name; a default that is made is made anew."""
    first, second = Place("a", 2), Place(name="a")
    first.tags["x"] = 1

    assert (first.name, first.level, second.level) == ("a", 2, 0)
    assert second.tags == {}
    assert [item.name for item in fields(first)] == ["name", "level", "tags"]


def test_subclass() -> None:
    """A record of a record has the fields of both."""
    room = Room("a", 1, {}, "shut")

    assert (room.name, room.door) == ("a", "shut")
    assert Room.__match_args__ == ("name", "level", "tags", "door")


def test_never_changes() -> None:
    """No field can be set or deleted, and there are no others."""
    place = Place("a")

    with pytest.raises(FrozenInstanceError, match="'name' of a Place never changes"):
        place.name = "b"  # type: ignore[misc]

    with pytest.raises(FrozenInstanceError):
        del place.name

    with pytest.raises(FrozenInstanceError):
        place.other = 1  # type: ignore[attr-defined]

    assert not hasattr(place, "__dict__")


def test_post_init() -> None:
    """A record may refuse its values; so may a replaced one."""
    with pytest.raises(ValueError, match="-1"):
        Place("a", -1)

    with pytest.raises(ValueError, match="-1"):
        replace(Place("a"), level=-1)


def test_equality_and_hash() -> None:
    """Equal are those of one class with equal fields."""
    assert Place("a") == Place("a")
    assert Place("a") != Place("b")
    assert Place("a") != Room("a")
    assert Nothing() == Nothing()
    assert len({Nothing(), Nothing()}) == 1
    assert hash(Room("a", tags=())) == hash(Room("a", tags=()))  # type: ignore[arg-type]


def test_repr() -> None:
    """It is shown as a dataclass is."""
    assert repr(Place("a", 1)) == "Place(name='a', level=1, tags={})"
    assert repr(Usual("a", 1)).partition("(")[2] == "name='a', level=1)"
    assert repr(Nothing()) == "Nothing()"


def test_copies() -> None:
    """It can be copied, pickled and replaced."""
    place = Place("a", 1, {"x": 1})

    assert copy.deepcopy(place) == copy.copy(place) == place
    assert pickle.loads(pickle.dumps(place)) == place
    assert replace(place, name="b") == Place("b", 1, {"x": 1})


def test_wrong_arguments() -> None:
    """What is missing, or too much, is a `TypeError` that names the class."""
    with pytest.raises(TypeError, match=r"Place\.__init__\(\) missing"):
        Place()  # type: ignore[call-arg]

    with pytest.raises(TypeError, match=r"Place\.__init__\(\)"):
        Place("a", other=1)  # type: ignore[call-arg]
