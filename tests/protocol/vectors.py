"""The test vectors: `vectors.json` is made from this and checked against it.

`python -m tests.protocol.vectors` writes the file anew.
"""

import json
from pathlib import Path
from typing import Final, TypedDict, cast

import msgpack

from teleworkerd.protocol.codec import encode, unpack
from teleworkerd.protocol.framing import LENGTH
from tests.protocol.notation import notation
from tests.protocol.samples import JOB, SAMPLES


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


def _frame(body: bytes) -> str:
    return (LENGTH.pack(len(body)) + body).hex()


def _packed(value: object) -> str:
    return _frame(msgpack.packb(value))


_TOLERATED: Final = (
    (
        "unknown-field",
        "client",
        _packed({"type": "cancel", "id": 11, "because": [1, {"x": None}]}),
        "cancel",
        "fields that are not known are ignored, whatever they hold",
    ),
    (
        "nil-field",
        "client",
        _packed({"type": "stop", "id": 10, "job": "5e3f", "grace": None}),
        "stop-never",
        "nil is the same as absent",
    ),
    (
        "any-order",
        "client",
        _packed({"id": 11, "type": "cancel"}),
        "cancel",
        "the order of fields means nothing",
    ),
    (
        "wide-forms",
        "client",
        _frame(
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
        _packed({"type": "stop", "id": 9, "job": JOB, "grace": 10}),
        "stop",
        "an integer where a number is expected",
    ),
    (
        "defaults",
        "client",
        _packed({"type": "list", "id": 5}),
        "list-all",
        "a field that is absent has its default",
    ),
)

_REFUSED: Final = (
    ("empty-frame", "client", "00000000", "a frame has at least one byte"),
    (
        "long-frame",
        "client",
        "00200001",
        "longer than max_frame; at the length already",
    ),
    ("not-a-map", "client", _packed(["ping"]), "a message is a map"),
    ("no-type", "client", _packed({"id": 1}), "a message has a type"),
    ("type-not-text", "client", _packed({"type": b"ping"}), "binary is not text"),
    ("unknown-type", "client", _packed({"type": "reboot"}), "no such message"),
    (
        "wrong-side",
        "client",
        _packed({"type": "goaway", "message": ""}),
        "the server's",
    ),
    ("second-hello", "client", _packed({"type": "hello", "version": 1}), "only once"),
    ("not-msgpack", "client", _frame(b"\xc1"), "0xc1 is never used"),
    (
        "extension",
        "client",
        _packed({"type": "ping", "x": msgpack.ExtType(1, b"")}),
        "no extension types",
    ),
    (
        "timestamp",
        "client",
        _packed({"type": "ping", "x": msgpack.Timestamp(0)}),
        "no extension types",
    ),
    ("cut-short", "client", _frame(b"\x82\xa4type\xa4ping"), "one of two fields"),
    (
        "bytes-after",
        "client",
        _frame(b"\x81\xa4type\xa4ping\xc0"),
        "one message per frame",
    ),
    (
        "same-key-twice",
        "client",
        _frame(b"\x83\xa4type\xa6cancel\xa2id\x01\xa2id\x02"),
        "which id is meant?",
    ),
    (
        "number-as-key",
        "client",
        _packed({"type": "ping", 1: 2}),
        "keys are text or binary",
    ),
    (
        "not-utf-8",
        "client",
        _frame(b"\x82\xa4type\xa4ping\xa1x\xa1\xff"),
        "text is UTF-8",
    ),
    (
        "surrogate",
        "client",
        _frame(b"\x82\xa4type\xa4ping\xa1x\xa3\xed\xa0\x80"),
        "text is UTF-8, which has no surrogates",
    ),
    (
        "too-deep",
        "client",
        _frame(b"\x82\xa4type\xa4ping\xa1x" + b"\x91" * 8 + b"\xc0"),
        "nine levels",
    ),
    (
        "array-too-long",
        "client",
        _frame(b"\x82\xa4type\xa4ping\xa1x\xdc\x40\x01"),
        "16,385 entries; at the length already",
    ),
    ("id-missing", "client", _packed({"type": "info"}), "a request has an id"),
    ("id-negative", "client", _packed({"type": "info", "id": -1}), "from 0 to 2^32-1"),
    (
        "id-too-great",
        "client",
        _packed({"type": "info", "id": 1 << 32}),
        "from 0 to 2^32-1",
    ),
    ("id-boolean", "client", _packed({"type": "info", "id": True}), "true is not 1"),
    ("id-float", "client", _packed({"type": "info", "id": 1.0}), "1.0 is not 1"),
    (
        "text-as-binary",
        "client",
        _packed({"type": "wait", "id": 1, "job": b"5e3f"}),
        "job is text",
    ),
    (
        "job-too-long",
        "client",
        _packed({"type": "wait", "id": 1, "job": "x" * 65}),
        "at most 64 characters",
    ),
    (
        "argument-as-text",
        "client",
        _packed(
            {"type": "run", "id": 1, "request_id": "r", "spec": {"command": ["ls"]}}
        ),
        "arguments are binary",
    ),
    (
        "offset-too-great",
        "client",
        _packed({"type": "output", "id": 1, "job": "j", "offset": 1 << 63}),
        "at most 2^63-1",
    ),
    (
        "no-such-policy",
        "client",
        _packed(
            {
                "type": "run",
                "id": 1,
                "request_id": "r",
                "spec": {"command": [b"a"], "on_full": "wait"},
            }
        ),
        "block, drop or kill",
    ),
    (
        "credit-too-great",
        "client",
        _packed({"type": "output", "id": 1, "job": "j", "credit": (64 << 20) + 1}),
        "at most max_credit",
    ),
    (
        "no-such-stream",
        "client",
        _packed({"type": "output", "id": 1, "job": "j", "stream": "stdin"}),
        "stdout or stderr",
    ),
    (
        "grace-not-finite",
        "client",
        _packed({"type": "stop", "id": 1, "job": "j", "grace": float("inf")}),
        "numbers are finite",
    ),
    (
        "response-unasked",
        "server",
        _packed({"type": "done", "id": 1, "job": "j"}),
        "no request has this id",
    ),
    (
        "chunk-unasked",
        "server",
        _packed({"type": "chunk", "id": 1, "offset": 0, "data": b"x"}),
        "no request has this id",
    ),
)

_RUN: Final = {"type": "run", "id": 1, "request_id": "r"}

_INVALID: Final = (
    ("command-empty", {**_RUN, "spec": {"command": []}}, "no program"),
    ("program-empty", {**_RUN, "spec": {"command": [b""]}}, "no program"),
    (
        "argument-with-nul",
        {**_RUN, "spec": {"command": [b"a\0b"]}},
        "execve would cut it",
    ),
    (
        "env-name-with-equals",
        {**_RUN, "spec": {"command": [b"a"], "env": {b"A=B": b""}}},
        "execve would split it elsewhere",
    ),
    (
        "workdir-relative",
        {**_RUN, "spec": {"command": [b"a"], "workdir": b"tmp"}},
        "relative to what?",
    ),
    (
        "mem-too-small",
        {**_RUN, "spec": {"command": [b"a"], "limits": {"mem": 3}}},
        "at least 4 megabytes",
    ),
    (
        "cpu-too-great",
        {**_RUN, "spec": {"command": [b"a"], "limits": {"cpu": 101}}},
        "1 to 100 percent",
    ),
    (
        "name-with-space",
        {**_RUN, "spec": {"command": [b"a"], "name": "a b"}},
        "not of the form of a name",
    ),
    (
        "label-key-empty",
        {**_RUN, "spec": {"command": [b"a"], "labels": {"": "x"}}},
        "not of the form of a key",
    ),
    (
        "timeout-zero",
        {**_RUN, "spec": {"command": [b"a"], "timeout": 0}},
        "more than 0",
    ),
    (
        "request-id-empty",
        {**_RUN, "request_id": "", "spec": {"command": [b"a"]}},
        "tells no jobs apart",
    ),
    (
        "grace-negative",
        {"type": "stop", "id": 1, "job": "j", "grace": -1},
        "from 0 to 30 days",
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
        for name, sender, data, why in _REFUSED
    ]
    refused += [
        Refused(
            name=name,
            sender="client",
            hex=_packed(value),
            closes=False,
            code="invalid_request",
            why=why,
        )
        for name, value, why in _INVALID
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
