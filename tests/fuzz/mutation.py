"""Changes inputs as somebody would who knows the format, and wants to break it."""

import random
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgpack

from teleworkerd.protocol.framing import LENGTH
from tests.fuzz.targets import STEPPED, TARGETS


Place = tuple[Any, ...]

ODD: Final[tuple[object, ...]] = (
    None,
    True,
    0,
    -1,
    (1 << 32) - 1,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
    -(1 << 63),
    0.5,
    -1e308,
    float("inf"),
    float("nan"),
    "",
    "x" * 256,
    "ü\0",
    "*",
    b"",
    b"a\0b",
    b"/" * 300,
    [],
    {},
    [[[[[[[[]]]]]]]],
    {"x": {"x": [{}]}},
    msgpack.Timestamp(0),
    msgpack.ExtType(1, b""),
)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return *data*, an input of `targets.run`, with something about it changed."""
    if len(data) < 3 or rng.random() < 0.1:
        return _bytewise(data, rng)

    name = list(TARGETS)[data[0] % len(TARGETS)]

    if name not in STEPPED:
        return data[:1] + _body(data[1:], rng)

    step = rng.choice((data[1], 0, 1, rng.randrange(256)))
    return data[:1] + bytes([step]) + _stream(data[2:], rng)


def _stream(data: bytes, rng: random.Random) -> bytes:
    """Change one of the frames in *data*, or their order, or their number."""
    frames = list(_frames(data))
    place = rng.randrange(len(frames) + 1)

    match rng.randrange(5):
        case 0:
            frames[place:place] = frames[: rng.randrange(len(frames) + 1)]
        case 1:
            del frames[place:]
        case 2:
            rng.shuffle(frames)
        case 3:
            return _bytewise(data, rng)
        case _:
            frames[place : place + 1] = [
                _framed(_body(frame[LENGTH.size :], rng))
                for frame in frames[place : place + 1]
            ]

    return b"".join(frames)


def _frames(data: bytes) -> Iterator[bytes]:
    while data:
        size = int.from_bytes(data[: LENGTH.size])
        yield data[: LENGTH.size + size]
        data = data[LENGTH.size + size :]


def _framed(body: bytes) -> bytes:
    return LENGTH.pack(len(body)) + body


def _body(data: bytes, rng: random.Random) -> bytes:
    """Change a value in the message *data*, or its bytes if it is none."""
    if rng.random() < 0.2:
        return _bytewise(data, rng)

    try:
        value = msgpack.unpackb(data, strict_map_key=False)
        packed: bytes = msgpack.packb(_value(value, rng))
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException):
        return _bytewise(data, rng)

    return packed


def _value(value: object, rng: random.Random) -> object:
    """Return *value* with one thing in it, any of them, replaced, left out or added."""
    place = rng.choice(list(_places(value)))
    return _changed(value, place, rng)


def _places(value: object) -> Iterator[Place]:
    """Yield the way to *value* itself and to each thing in it."""
    yield ()

    if isinstance(value, dict):
        for key, item in value.items():
            yield from ((key, *rest) for rest in _places(item))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from ((number, *rest) for rest in _places(item))


def _changed(value: Any, place: Place, rng: random.Random) -> object:
    if not place:
        return _other(value, rng)

    key, *rest = place
    copied = value.copy()

    if not rest and rng.random() < 0.3:
        del copied[key]
    elif not rest and rng.random() < 0.2 and isinstance(value, dict):
        copied[_other(key, rng)] = copied.pop(key)
    else:
        copied[key] = _changed(value[key], tuple(rest), rng)

    return copied


def _other(value: object, rng: random.Random) -> object:
    """Return something else, mostly of the same kind."""
    if rng.random() < 0.5:
        return rng.choice(ODD)

    match value:
        case bool():
            return not value
        case int():
            return value + rng.choice((-1, 1, 1 << rng.randrange(63)))
        case str():
            place = rng.randrange(len(value) + 1)
            return (
                value[:place] + rng.choice(("", "x", "/..", "é")) + value[place + 1 :]
            )
        case bytes():
            return _bytewise(value, rng)
        case _:
            return rng.choice(ODD)


def _bytewise(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: data[:place],
        lambda: data[:place] + data[place + 1 :],
        lambda: data[:place] + rng.randbytes(rng.randrange(1, 5)) + data[place:],
        lambda: data[:place] + rng.randbytes(1) + data[place + 1 :],
    )
    return rng.choice(ways)()
