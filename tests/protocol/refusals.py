"""Bytes that a receiver refuses, for the vectors, and why."""

from typing import Final

import msgpack

from teleworkerd.protocol.framing import LENGTH


def framed(body: bytes) -> str:
    """Return the frame of *body* in hex."""
    return (LENGTH.pack(len(body)) + body).hex()


def packed(value: object) -> str:
    """Return the frame that holds *value* in hex."""
    return framed(msgpack.packb(value))


REFUSED: Final = (
    ("empty-frame", "client", "00000000", "a frame has at least one byte"),
    (
        "long-frame",
        "client",
        "00200001",
        "longer than max_frame; at the length already",
    ),
    ("not-a-map", "client", packed(["ping"]), "a message is a map"),
    ("no-type", "client", packed({"id": 1}), "a message has a type"),
    ("type-not-text", "client", packed({"type": b"ping"}), "binary is not text"),
    ("unknown-type", "client", packed({"type": "reboot"}), "no such message"),
    (
        "wrong-side",
        "client",
        packed({"type": "goaway", "message": ""}),
        "the server's",
    ),
    ("second-hello", "client", packed({"type": "hello", "version": 1}), "only once"),
    (
        "list-as-key",
        "client",
        framed(b"\x82\xa4type\xa4ping\x90\xc0"),
        "keys are text or binary",
    ),
    ("not-msgpack", "client", framed(b"\xc1"), "0xc1 is never used"),
    (
        "extension",
        "client",
        packed({"type": "ping", "x": msgpack.ExtType(1, b"")}),
        "no extension types",
    ),
    (
        "timestamp",
        "client",
        packed({"type": "ping", "x": msgpack.Timestamp(0)}),
        "no extension types",
    ),
    ("cut-short", "client", framed(b"\x82\xa4type\xa4ping"), "one of two fields"),
    (
        "bytes-after",
        "client",
        framed(b"\x81\xa4type\xa4ping\xc0"),
        "one message per frame",
    ),
    (
        "same-key-twice",
        "client",
        framed(b"\x83\xa4type\xa6cancel\xa2id\x01\xa2id\x02"),
        "which id is meant?",
    ),
    (
        "number-as-key",
        "client",
        packed({"type": "ping", 1: 2}),
        "keys are text or binary",
    ),
    (
        "not-utf-8",
        "client",
        framed(b"\x82\xa4type\xa4ping\xa1x\xa1\xff"),
        "text is UTF-8",
    ),
    (
        "surrogate",
        "client",
        framed(b"\x82\xa4type\xa4ping\xa1x\xa3\xed\xa0\x80"),
        "text is UTF-8, which has no surrogates",
    ),
    (
        "too-deep",
        "client",
        framed(b"\x82\xa4type\xa4ping\xa1x" + b"\x91" * 8 + b"\xc0"),
        "nine levels",
    ),
    (
        "array-too-long",
        "client",
        framed(b"\x82\xa4type\xa4ping\xa1x\xdc\x40\x01"),
        "16,385 entries; at the length already",
    ),
    ("id-missing", "client", packed({"type": "info"}), "a request has an id"),
    ("id-negative", "client", packed({"type": "info", "id": -1}), "from 0 to 2^32-1"),
    (
        "id-too-great",
        "client",
        packed({"type": "info", "id": 1 << 32}),
        "from 0 to 2^32-1",
    ),
    ("id-boolean", "client", packed({"type": "info", "id": True}), "true is not 1"),
    ("id-float", "client", packed({"type": "info", "id": 1.0}), "1.0 is not 1"),
    (
        "text-as-binary",
        "client",
        packed({"type": "wait", "id": 1, "job": b"5e3f"}),
        "job is text",
    ),
    (
        "job-too-long",
        "client",
        packed({"type": "wait", "id": 1, "job": "x" * 65}),
        "at most 64 characters",
    ),
    (
        "argument-as-text",
        "client",
        packed(
            {"type": "run", "id": 1, "request_id": "r", "spec": {"command": ["ls"]}}
        ),
        "arguments are binary",
    ),
    (
        "offset-too-great",
        "client",
        packed({"type": "output", "id": 1, "job": "j", "offset": 1 << 63}),
        "at most 2^63-1",
    ),
    (
        "offset-negative",
        "client",
        packed({"type": "output", "id": 1, "job": "j", "offset": -1}),
        "at least 0",
    ),
    (
        "owner-too-long",
        "client",
        packed({"type": "list", "id": 1, "owner": "x" * 256}),
        "at most 255 characters",
    ),
    (
        "no-such-policy",
        "client",
        packed(
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
        packed({"type": "output", "id": 1, "job": "j", "credit": (64 << 20) + 1}),
        "at most max_credit",
    ),
    (
        "no-such-stream",
        "client",
        packed({"type": "output", "id": 1, "job": "j", "stream": "stdin"}),
        "stdout or stderr",
    ),
    (
        "grace-not-finite",
        "client",
        packed({"type": "stop", "id": 1, "job": "j", "grace": float("inf")}),
        "numbers are finite",
    ),
    (
        "response-unasked",
        "server",
        packed({"type": "done", "id": 1, "job": "j"}),
        "no request has this id",
    ),
    (
        "chunk-unasked",
        "server",
        packed({"type": "chunk", "id": 1, "offset": 0, "data": b"x"}),
        "no request has this id",
    ),
)

_RUN: Final = {"type": "run", "id": 1, "request_id": "r"}

INVALID: Final = (
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
        "user-with-slash",
        {**_RUN, "spec": {"command": [b"a"], "user": "../root"}},
        "not of the form of an account",
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
