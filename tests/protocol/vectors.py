"""The test vectors: `vectors.json` is made from this and checked against it.

`python -m tests.protocol.vectors` writes the file anew.
"""

import json
from pathlib import Path
from typing import Final, TypedDict, cast

from teleworkerd.protocol.codec import encode, unpack
from teleworkerd.protocol.framing import LENGTH
from tests.protocol.facts import JOB
from tests.protocol.notation import notation
from tests.protocol.refusals import INVALID, REFUSED, framed, packed
from tests.protocol.samples import SAMPLES


FILE: Final = Path(__file__).with_name("vectors.json")


class Vector(TypedDict):
    """One row: `value` is in the notation of protocol.md, "Test vectors"."""

    name: str
    sender: str
    hex: str
    value: str
    meaning: str


class Tolerated(TypedDict):
    """Other bytes that mean the same as the vector called `same_as`."""

    name: str
    sender: str
    hex: str
    same_as: str
    meaning: str


class Refused(TypedDict):
    """Bytes that a receiver refuses, once the hellos have been exchanged.

    `closes` is false where the response is an `error` to the request alone.
    """

    name: str
    sender: str
    hex: str
    closes: bool
    code: str
    why: str


class Vectors(TypedDict):
    """The whole file."""

    messages: list[Vector]
    tolerated: list[Tolerated]
    refused: list[Refused]


_TOLERATED: Final = (
    (
        "unknown-field",
        "client",
        packed({"type": "cancel", "id": 11, "because": [1, {"x": None}]}),
        "cancel",
        "fields that are not known are ignored, whatever they hold",
    ),
    (
        "nil-field",
        "client",
        packed({"type": "stop", "id": 10, "job": "5e3f", "grace": None}),
        "stop-never",
        "nil is the same as absent",
    ),
    (
        "any-order",
        "client",
        packed({"id": 11, "type": "cancel"}),
        "cancel",
        "the order of fields means nothing",
    ),
    (
        "wide-forms",
        "client",
        framed(
            b"\xdf\0\0\0\2\xdb\0\0\0\4type\xda\0\6cancel\xd9\2id\xd3"
            + b"\0" * 7
            + b"\x0b"
        ),
        "cancel",
        "every width of a number, text, map or array is accepted",
    ),
    (
        "whole-number",
        "client",
        packed({"type": "stop", "id": 9, "job": JOB, "grace": 10}),
        "stop",
        "an integer where a number is expected",
    ),
    (
        "defaults",
        "client",
        packed({"type": "list", "id": 5}),
        "list-all",
        "a field that is absent has its default",
    ),
)


def make() -> Vectors:
    """Return the vectors as the code has them."""
    messages: list[Vector] = []

    for name, sender, message, meaning in SAMPLES:
        frame = b"".join(encode(message))
        value = notation(unpack(frame[LENGTH.size :]))
        messages.append(
            Vector(
                name=name, sender=sender, hex=frame.hex(), value=value, meaning=meaning
            )
        )

    tolerated = [
        Tolerated(name=name, sender=sender, hex=data, same_as=same_as, meaning=meaning)
        for name, sender, data, same_as, meaning in _TOLERATED
    ]
    refused = [
        Refused(
            name=name,
            sender=sender,
            hex=data,
            closes=True,
            code="protocol_error",
            why=why,
        )
        for name, sender, data, why in REFUSED
    ]
    refused += [
        Refused(
            name=name,
            sender="client",
            hex=packed(value),
            closes=False,
            code="invalid_request",
            why=why,
        )
        for name, value, why in INVALID
    ]
    return Vectors(messages=messages, tolerated=tolerated, refused=refused)


def load() -> Vectors:
    """Return the vectors as the file has them."""
    return cast("Vectors", json.loads(FILE.read_text("utf-8")))


def dumped(vectors: Vectors) -> str:
    """Return *vectors* as the file's text."""
    return json.dumps(vectors, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(dumped(make()), "utf-8")
