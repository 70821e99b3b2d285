"""Between messages and the bytes of a frame; the only module that knows msgpack."""

import struct
from collections.abc import Mapping
from typing import Final, TypeVar, cast

import msgpack

from teleworkerd.protocol.errors import (
    InvalidMessage,
    LocalProtocolError,
    RemoteProtocolError,
    RequestError,
    TeleworkerError,
)
from teleworkerd.protocol.fields import dump, reader
from teleworkerd.protocol.framing import LENGTH, MAX_FRAME
from teleworkerd.protocol.messages import MAX_CHUNK, Message, Request, RequestId
from teleworkerd.protocol.responses import OutputChunk
from teleworkerd.protocol.roles import Rejected
from teleworkerd.protocol.shape import MAX_VALUES, check_shape
from teleworkerd.protocol.spec import MAX_ARGUMENTS


T = TypeVar("T")

Registry = Mapping[str, type[Message]]

_BIN32: Final = struct.Struct(">BI")
_MAX_TEXT: Final = 64 << 10
_READ_ID: Final = reader(RequestId)


def registry(messages: tuple[type[Message], ...]) -> Registry:
    """Return *messages* by their type on the wire."""
    return {message.type: message for message in messages}


def pack(value: object) -> bytes:
    """Return *value*, of msgpack's own types, as one frame with its length."""
    body: bytes = msgpack.packb(value)
    return LENGTH.pack(len(body)) + body


def unpack(frame: bytes | memoryview) -> dict[str, object]:
    """Return the map that *frame* holds.

    Raises `RemoteProtocolError`, and nothing else, when it is no such map:
    trailing bytes, duplicate keys, extension types and sizes beyond the limits
    are refused, the sizes before memory is taken for them.
    """
    check_shape(frame)

    try:
        value = msgpack.unpackb(
            frame,
            raw=False,
            use_list=True,
            strict_map_key=True,
            object_pairs_hook=_unique,
            max_str_len=_MAX_TEXT,
            max_bin_len=MAX_FRAME,
            max_array_len=MAX_ARGUMENTS,
            max_map_len=MAX_ARGUMENTS,
            max_ext_len=0,
        )
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise RemoteProtocolError(f"a frame that is not a message: {error}") from error

    if not isinstance(value, dict):
        raise RemoteProtocolError(
            f"a frame that is not a map but {type(value).__name__}"
        )

    return cast("dict[str, object]", value)


def dump_record(record: object) -> bytes:
    """Return a dataclass, or its fields by name, as the bytes of one msgpack map."""
    body: bytes = msgpack.packb(dump(record))
    return body


def load_record(cls: type[T], data: bytes) -> T:
    """Return the dataclass *cls* that `dump_record` made *data* from.

    Raises `RemoteProtocolError` when it is no such thing.
    """
    value = unpack(data)

    try:
        return cast("T", reader(cast("object", cls))(value, cls.__name__))
    except RemoteProtocolError:
        raise
    except TeleworkerError as error:  # a value that the class itself refuses
        raise RemoteProtocolError(f"{cls.__name__}: {error}") from error


def encode(message: Message) -> list[bytes]:
    """Return the frame of *message* in pieces, so that output is not copied.

    Raises `LocalProtocolError` for what msgpack cannot hold (text that is not
    valid Unicode, a number of more than 64 bits) and for what no peer takes: a
    message that is too long or has too many values.
    """
    if isinstance(message, OutputChunk):
        return _encode_chunk(message)

    fields = cast("dict[str, object]", dump(message))

    try:
        frame = pack({"type": message.type, **fields})
    except (ValueError, TypeError, OverflowError) as error:
        raise LocalProtocolError(f"a {message.type}: {error}") from error

    _check_size(message.type, frame)
    return [frame]


def decode(frame: bytes | memoryview, known: Registry) -> Message:
    """Return the message that *frame* holds, of one of the *known* types.

    A request whose values are out of range comes back as `Rejected`. Raises
    `RemoteProtocolError` for everything else that is wrong.
    """
    value = unpack(frame)
    name = value.get("type")
    message = known.get(name) if isinstance(name, str) else None

    if message is None:
        # What is no text may be as large as the frame: it is not shown.
        shown = f"{name!r:.80}" if isinstance(name, str) else f"({type(name).__name__})"
        raise RemoteProtocolError(f"unknown message type {shown}")

    try:
        return cast("Message", reader(cast("object", message))(value, message.type))
    except RemoteProtocolError:
        raise
    except TeleworkerError as error:  # a value that a class itself refuses
        if not (isinstance(error, RequestError) and issubclass(message, Request)):
            raise RemoteProtocolError(f"{message.type}: {error}") from error

        return Rejected(_READ_ID(value.get("id"), f"{message.type}.id"), error)


def check(message: Message) -> None:
    """Raise `InvalidMessage`, naming the field, if no peer can read *message*."""
    frame = b"".join(encode(message))

    try:
        decode(frame[LENGTH.size :], registry((type(message),)))
    except RemoteProtocolError as error:
        raise InvalidMessage(str(error)) from error


def _check_size(name: str, frame: bytes) -> None:
    size = len(frame) - LENGTH.size

    if size > MAX_FRAME:
        raise LocalProtocolError(f"a {name} of {size} bytes; the most is {MAX_FRAME}")

    if size <= MAX_VALUES:  # a value has at least one byte
        return

    try:
        check_shape(frame[LENGTH.size :])
    except RemoteProtocolError as error:
        raise LocalProtocolError(f"a {name} that no peer takes: {error}") from error


def _encode_chunk(chunk: OutputChunk) -> list[bytes]:
    if len(chunk.data) > MAX_CHUNK:
        raise LocalProtocolError(
            f"a chunk of {len(chunk.data)} bytes; the most is {MAX_CHUNK}"
        )

    head: dict[str, object] = {
        "type": chunk.type,
        "id": chunk.id,
        "offset": chunk.offset,
    }

    if chunk.stream is not None:
        head["stream"] = chunk.stream.value

    if chunk.times:
        head["times"] = chunk.times

    packed: bytes = msgpack.packb(head)
    # protocol.md, "Output": a map with one entry more, whose bytes come last.
    start = bytes((packed[0] + 1,)) + packed[1:] + b"\xa4data"
    start += _BIN32.pack(0xC6, len(chunk.data))
    return [LENGTH.pack(len(start) + len(chunk.data)) + start, chunk.data]


def _unique(pairs: list[tuple[object, object]]) -> dict[object, object]:
    result = dict(pairs)

    if len(result) != len(pairs):
        raise ValueError("a map with a key twice")

    return result
