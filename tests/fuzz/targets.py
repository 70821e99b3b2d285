"""What is fuzzed: each target takes bytes, and checks what must hold of any bytes."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from teleworkerd.keeper import messages as keeper
from teleworkerd.keeper import orders
from teleworkerd.protocol.codec import (
    Registry,
    decode,
    dump_record,
    encode,
    load_record,
)
from teleworkerd.protocol.connection import (
    FROM_CLIENT,
    FROM_SERVER,
    Connection,
    ConnectionState,
)
from teleworkerd.protocol.errors import RemoteProtocolError, RequestError
from teleworkerd.protocol.framing import LENGTH, MAX_FRAME, FrameDecoder
from teleworkerd.protocol.messages import ClientHello, Message, Request
from teleworkerd.protocol.responses import ErrorResponse, ServerHello
from teleworkerd.protocol.roles import Rejected
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.status import JobStatus
from tests.fuzz.ends import Asker, End, Server


Target = Callable[[bytes], None]
Outcome = tuple[list[object], str, list[Message]]

SMALL: Final = 64  # bytes; the longest frame that the target `frames` takes

_RECORDS: Final = (JobStatus, JobSpec, orders.Launch)


def run(data: bytes) -> None:
    """Give *data* to the target that its first byte chooses; raises what is wrong."""
    if data:
        names = list(TARGETS)
        TARGETS[names[data[0] % len(names)]](data[1:])


def chosen(name: str, data: bytes) -> bytes:
    """Return what makes `run` give *data* to the target *name*."""
    return bytes([list(TARGETS).index(name)]) + data


def _codec(known: Registry) -> Target:
    def target(data: bytes) -> None:
        """Whatever is read as a message can be written, and reads the same again."""
        try:
            message = decode(data, known)
        except RemoteProtocolError:
            return

        if isinstance(message, Rejected):
            assert any(issubclass(kind, Request) for kind in known.values())
            return

        assert type(message) in known.values()
        again = b"".join(encode(message))[LENGTH.size :]
        assert decode(again, known) == message

    return target


def _record(data: bytes) -> None:
    """A damaged file is refused; one that is read is written the same again."""
    for cls in _RECORDS:
        try:
            record = load_record(cls, data)
        except RemoteProtocolError:
            continue

        assert load_record(cls, dump_record(record)) == record


def _frames(data: bytes) -> None:
    """Frames come out as a simple model has them, up to the first bad length."""
    step, data = _step(data)
    decoder = FrameDecoder(SMALL)
    found: list[bytes | None] = []
    longest = 0

    for piece in _pieces(data, step):
        longest = max(longest, len(piece))
        decoder.feed(piece)

        try:
            found += map(bytes, iter(decoder.next_frame, None))
        except RemoteProtocolError:
            found.append(None)
            break

        assert len(decoder._buffer) < LENGTH.size + SMALL + longest

    assert found == list(_modelled(data))


def _modelled(data: bytes) -> Iterator[bytes | None]:
    """Yield the whole frames in *data*, and None for a bad one, which is the last."""
    while len(data) >= LENGTH.size:
        (size,) = LENGTH.unpack_from(data)

        if not 0 < size <= SMALL:
            yield None
            return

        frame, data = data[LENGTH.size :][:size], data[LENGTH.size + size :]

        if len(frame) < size:
            return

        yield frame


def _connection(make: Callable[[], End], before: bytes) -> Target:
    def target(data: bytes) -> None:
        """What comes of bytes does not depend on how they were divided."""
        step, data = _step(data)
        data = before + data
        whole = _outcome(make(), data, 0)

        assert _outcome(make(), data, step) == whole

    return target


def _outcome(end: End, data: bytes, step: int) -> Outcome:
    """Return the messages, how it ended, and what was said meanwhile."""
    connection = end.connection
    found: list[object] = []
    failure = ""

    for piece in _pieces(data, step):
        connection.receive_data(piece)
        held = len(connection._decoder._buffer)
        assert held <= 2 * (LENGTH.size + MAX_FRAME + len(piece))

        try:
            for message in connection.events():
                found.append(_comparable(message))
                end.answer(message)
        except (RemoteProtocolError, RequestError) as error:
            failure = f"{type(error).__name__}: {error}"
            break

    said = _read(b"".join(connection.data_to_send()), end.sends)

    if failure:
        _check_closed(connection, data, said, is_server=isinstance(end, Server))

    return found, failure, said


def _comparable(message: Message) -> object:
    # Errors are equal to nothing but themselves.
    return str(message) if isinstance(message, Rejected) else message


def _check_closed(
    connection: Connection, data: bytes, said: list[Message], *, is_server: bool
) -> None:
    """After a breach nothing is read or said any more, but a server's last word."""
    assert connection.state is ConnectionState.CLOSED
    connection.receive_data(data)
    assert not list(connection.events())
    assert not connection.data_to_send()

    fatal = [
        word for word in said if isinstance(word, ErrorResponse) and word.id is None
    ]
    assert fatal == (said[-1:] if is_server else [])


def _read(data: bytes, known: Registry) -> list[Message]:
    decoder = FrameDecoder()
    decoder.feed(data)
    messages = [decode(frame, known) for frame in iter(decoder.next_frame, None)]
    assert decoder._start == decoder._stop
    return messages


def _step(data: bytes) -> tuple[int, bytes]:
    """Return how many bytes come at once (0: all), and the bytes."""
    return (data[0], data[1:]) if data else (0, b"")


def _pieces(data: bytes, step: int) -> Iterator[bytes]:
    size = step or len(data) or 1

    for start in range(0, len(data), size):
        yield data[start : start + size]


def _framed(message: Message) -> bytes:
    return b"".join(encode(message))


TARGETS: Final[Mapping[str, Target]] = {
    "client-message": _codec(FROM_CLIENT),
    "server-message": _codec(FROM_SERVER),
    "to-keeper": _codec(orders.FROM_SERVER),
    "from-keeper": _codec(keeper.FROM_KEEPER),
    "record": _record,
    "frames": _frames,
    "server": _connection(Server, _framed(ClientHello(1))),
    "server-greeting": _connection(Server, b""),
    "client": _connection(Asker, _framed(ServerHello((1,), "s", "n"))),
    "client-greeting": _connection(Asker, b""),
}
"""By name; of those in `STEPPED` the first byte says how the rest is divided."""

STEPPED: Final = frozenset(
    {"frames", "server", "server-greeting", "client", "client-greeting"}
)
