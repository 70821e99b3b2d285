"""What fuzzing begins with: the test vectors, and one of each message and record."""

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, Union, cast

from teleworkerd.config import Config
from teleworkerd.keeper import messages as keeper
from teleworkerd.keeper import orders
from teleworkerd.protocol.codec import dump_record, encode
from teleworkerd.protocol.framing import LENGTH
from teleworkerd.protocol.spec import JobSpec, Limits
from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import AtMost, Between
from tests.fuzz.targets import TARGETS, chosen
from tests.protocol.facts import ECHO_ENDED, KILLED_FOR_MEMORY, NOT_STARTED, SPEC
from tests.protocol.vectors import load


FOUND: Final = Path(__file__).with_name("found")  # inputs that broke something once

_STEPS: Final = (b"\x00", b"\x01", b"\x0d")  # all at once, singly, in pieces

_KNOWN: Final[Mapping[object, object]] = {
    Config: Config(),
    JobSpec: SPEC,
    JobStatus: KILLED_FOR_MEMORY,
    Limits: SPEC.limits,
    bool: True,
    bytes: b"x",
    float: 1.5,
    int: 1,
    str: "x",
}


def seeds() -> list[bytes]:
    """Return the inputs, each once, with the byte that chooses its target."""
    return list(dict.fromkeys([*_messages(), *_connections(), *_keeper(), *_records()]))


def by_target() -> list[list[bytes]]:
    """Return the inputs of each target."""
    inputs = seeds() + found()
    return [
        [data for data in inputs if data[0] == number] for number in range(len(TARGETS))
    ]


def found() -> list[bytes]:
    """Return the inputs that broke something once."""
    return [path.read_bytes() for path in sorted(FOUND.glob("*"))]


def write(directory: Path) -> int:
    """Write all of them as files into *directory*; return how many."""
    inputs = seeds() + found()

    for number, data in enumerate(inputs):
        (directory / f"{number:04}").write_bytes(data)

    return len(inputs)


def example(hint: object) -> object:
    """Return a value of the type *hint*, with all that may be in it."""
    if hint in _KNOWN:
        return _KNOWN[hint]

    origin, args = typing.get_origin(hint), typing.get_args(hint)

    if origin is not None:
        return _generic(origin, args)

    if isinstance(hint, type) and issubclass(hint, Enum):
        return next(iter(hint))

    assert is_dataclass(hint)
    return _instance(cast("type", hint))


def _generic(origin: object, args: tuple[Any, ...]) -> object:
    if origin is Annotated:
        return _bounded(args)

    if origin in (Union, types.UnionType):
        return example(args[0])

    if origin is Mapping:
        return {example(args[0]): example(args[1])}

    item = example(args[0])
    return (item,) if origin is tuple else [item]


def _bounded(args: tuple[Any, ...]) -> object:
    base, *marks = args
    least = [mark.least for mark in marks if isinstance(mark, Between)]
    assert all(isinstance(mark, Between | AtMost) for mark in marks)
    return least[0] if least else example(base)


def _instance(cls: type) -> object:
    hints = typing.get_type_hints(cls, include_extras=True)
    return cls(**{field.name: example(hints[field.name]) for field in fields(cls)})


def _messages() -> Iterator[bytes]:
    for row in _vectors():
        body = bytes.fromhex(row["hex"])[LENGTH.size :]
        yield chosen(f"{row['sender']}-message", body)


def _connections() -> Iterator[bytes]:
    # By who sends it, to the other.
    receivers = {"client": "server", "server": "client"}
    whole = dict.fromkeys(receivers, b"")

    for row in _vectors():
        frame = bytes.fromhex(row["hex"])
        receiver = receivers[row["sender"]]
        whole[row["sender"]] += frame if row["type"] != "hello" else b""

        for step in _STEPS:
            yield chosen(receiver, step + frame)
            yield chosen(f"{receiver}-greeting", step + frame)

        yield chosen("frames", b"\x05" + frame)

    for sender, data in whole.items():
        yield chosen(receivers[sender], b"\x00" + data)

    yield chosen("frames", b"\x03" + b"\0\0\0\1a\0\0\0\2bc\0\0\0\x41")


def _keeper() -> Iterator[bytes]:
    for name, known in (
        ("to-keeper", orders.FROM_SERVER),
        ("from-keeper", keeper.FROM_KEEPER),
    ):
        assert name in TARGETS

        for message in known.values():
            frame = b"".join(encode(cast("Any", example(message))))
            yield chosen(name, frame[LENGTH.size :])


def _records() -> Iterator[bytes]:
    launch = example(orders.Launch)

    for record in (ECHO_ENDED, KILLED_FOR_MEMORY, NOT_STARTED, SPEC, launch):
        yield chosen("record", dump_record(record))


def _vectors() -> Iterator[dict[str, str]]:
    vectors = load()

    for row in vectors["messages"]:
        kind = "hello" if row["name"].endswith("hello") else ""
        yield {"sender": row["sender"], "hex": row["hex"], "type": kind}

    for other in (*vectors["tolerated"], *vectors["refused"]):
        yield {"sender": other["sender"], "hex": other["hex"], "type": "hello"}
