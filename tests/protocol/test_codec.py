"""Messages survive the wire, and nothing else gets through."""

import tracemalloc

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from teleworkerd.config import Config
from teleworkerd.keeper.messages import FROM_KEEPER, Reload
from teleworkerd.protocol.codec import (
    Registry,
    decode,
    dump_record,
    encode,
    load_record,
    pack,
    unpack,
)
from teleworkerd.protocol.connection import FROM_CLIENT, FROM_SERVER
from teleworkerd.protocol.errors import (
    InvalidRequest,
    LocalProtocolError,
    RemoteProtocolError,
)
from teleworkerd.protocol.framing import LENGTH, MAX_FRAME
from teleworkerd.protocol.messages import (
    MAX_CHUNK,
    MAX_PAGE,
    ClientHello,
    Message,
    Ping,
    RunRequest,
)
from teleworkerd.protocol.responses import ErrorResponse, ListResponse, OutputChunk
from teleworkerd.protocol.roles import CLIENT_MESSAGES, SERVER_MESSAGES, Rejected
from teleworkerd.protocol.shape import MAX_DEPTH, MAX_VALUES
from teleworkerd.protocol.spec import MAX_ARGUMENTS, JobSpec, Limits
from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import JobState
from tests.protocol.strategies import messages, specs


MEMORY_FOR_A_FRAME = 20 << 20


def body(message: Message) -> bytes:
    """Return the frame of *message* without its length."""
    return b"".join(encode(message))[LENGTH.size :]


def groups(item: bytes, count: int) -> bytes:
    """Return a ping that also carries *count* of *item*, in long arrays."""
    whole, rest = divmod(count, MAX_ARGUMENTS)
    sizes = [MAX_ARGUMENTS] * whole + [rest]
    arrays = [b"\xdc" + size.to_bytes(2) + item * size for size in sizes]
    head = b"\x82\xa4type\xa4ping\xa1x\xdc" + len(sizes).to_bytes(2)
    return head + b"".join(arrays)


@given(messages(CLIENT_MESSAGES))
def test_client_messages_round_trip(message: Message) -> None:
    """What the client packs is what the server reads."""
    assert message == decode(body(message), FROM_CLIENT)


@given(messages(SERVER_MESSAGES))
def test_server_messages_round_trip(message: Message) -> None:
    """What the server packs is what the client reads."""
    assert message == decode(body(message), FROM_SERVER)


@given(st.binary(max_size=200), st.sampled_from([FROM_CLIENT, FROM_SERVER]))
@example(b"", FROM_CLIENT)
@example(b"\x81\xa4type" + b"\x91" * 1000 + b"\xc0", FROM_CLIENT)
@example(b"\x81" * 1000, FROM_CLIENT)
def test_arbitrary_bytes_are_refused(data: bytes, known: Registry) -> None:
    """Nothing but `RemoteProtocolError` comes out of bytes that are no message."""
    try:
        message = decode(data, known)
    except RemoteProtocolError:
        return

    assert isinstance(message, (*known.values(), Rejected))


_plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=3)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=5) | st.binary(max_size=5), inner, max_size=3
        )
    ),
    max_leaves=8,
)
_fields = st.sampled_from(
    ["id", "job", "spec", "status", "jobs", "offset", "data", "code", "versions"]
)


@given(
    st.sampled_from([*FROM_CLIENT, *FROM_SERVER]),
    st.dictionaries(_fields, _plain, max_size=5),
    st.sampled_from([FROM_CLIENT, FROM_SERVER]),
)
def test_wrong_fields_are_refused(
    name: str, fields: dict[str, object], known: Registry
) -> None:
    """A known type with any fields is that message or a `RemoteProtocolError`."""
    frame = pack({"type": name, **fields})[LENGTH.size :]

    try:
        message = decode(frame, known)
    except RemoteProtocolError:
        return

    assert isinstance(message, (known[name], Rejected))


@given(messages(CLIENT_MESSAGES), st.data())
def test_a_message_cut_short_is_refused(message: Message, data: st.DataObject) -> None:
    """No beginning of a message is a message."""
    whole = body(message)
    cut = data.draw(st.integers(0, len(whole) - 1))

    with pytest.raises(RemoteProtocolError, match="cut short"):
        unpack(whole[:cut])


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x80",
        b"\x90",
        "x" * 31,
        "x" * 200,
        "x" * 300,
        "x" * 65_536,
        b"x" * 300,
        b"x" * 70_000,
        [1] * 15,
        [1] * 16,
        [1] * MAX_ARGUMENTS,
        {str(n): n for n in range(15)},
        {str(n): n for n in range(16)},
        [None, True, False, 0, 127, 128, 256, 1 << 16, 1 << 32],
        [-1, -32, -33, -129, -(1 << 15) - 1, -(1 << 31) - 1, 1.5],
        {b"binary": 1, "binary": 2},
    ],
)
def test_every_form_of_msgpack_passes(value: object) -> None:
    """The walk over a frame agrees with msgpack about where each value ends."""
    message = {"type": "ping", "x": value, "last": 1}

    assert message == unpack(msgpack.packb(message))


@pytest.mark.parametrize(
    "data",
    [
        # As many values as may be, of the dearest kinds.
        groups(b"\x80", MAX_VALUES - 20),
        groups(b"\x81\xa1a\xc0", MAX_VALUES // 3 - 20),
        groups(b"\xd9\x1b\xf0\x9f\x98\x80" + b"x" * 23, MAX_VALUES - 20),
        groups(b"\xda\xff\xff\xf0\x9f\x98\x80" + b"x" * 65_531, 31),
    ],
    ids=lambda data: f"{data[:24].hex()}-{len(data)}",
)
def test_the_largest_messages_stay_cheap(data: bytes) -> None:
    """The dearest messages that pass cost a bounded multiple of their frame."""
    assert len(data) <= MAX_FRAME
    tracemalloc.start()

    try:
        unpack(data)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert peak < MEMORY_FOR_A_FRAME


def test_values_are_counted() -> None:
    """The number of values in a message is bounded, however they are nested."""
    # Five for the map, its type, the other key and the array of arrays; four arrays.
    most = MAX_VALUES - 9
    assert unpack(groups(b"\xc0", most))

    with pytest.raises(RemoteProtocolError, match=f"more than {MAX_VALUES} values"):
        unpack(groups(b"\xc0", most + 1))


def test_depth_is_bounded() -> None:
    """The message itself counts as one level."""
    head = b"\x82\xa4type\xa4ping\xa1x"
    assert unpack(head + b"\x91" * (MAX_DEPTH - 1) + b"\xc0")

    with pytest.raises(RemoteProtocolError, match="nested deeper"):
        unpack(head + b"\x91" * MAX_DEPTH + b"\xc0")


def test_text_is_bounded() -> None:
    """Text of more than 64 KiB is refused, even in a field that is ignored."""
    with pytest.raises(RemoteProtocolError, match="max_str_len"):
        unpack(msgpack.packb({"type": "ping", "x": "x" * 65_537}))


def test_the_largest_command_passes() -> None:
    """Every spec that is valid fits a frame."""
    env = {b"%d" % n: b"x" * 20 for n in range(MAX_ARGUMENTS)}
    spec = JobSpec((b"x",) * MAX_ARGUMENTS, env=env)
    message = RunRequest(1, "r", spec)

    assert message == decode(body(message), FROM_CLIENT)


def test_an_invalid_spec_is_rejected_with_its_id() -> None:
    """A well-formed request for what cannot be is refused, not the connection."""
    frame = pack(
        {"type": "run", "id": 7, "request_id": "r", "spec": {"command": [b"a\0"]}}
    )
    message = decode(frame[LENGTH.size :], FROM_CLIENT)

    assert isinstance(message, Rejected)
    assert message.id == 7
    assert isinstance(message.error, InvalidRequest)


def test_an_invalid_spec_without_an_id_is_refused() -> None:
    """Where there is no request to refuse, the connection is."""
    frame = pack({"type": "run", "request_id": "r", "spec": {"command": []}})

    with pytest.raises(RemoteProtocolError, match="id"):
        decode(frame[LENGTH.size :], FROM_CLIENT)


def test_an_invalid_status_is_refused() -> None:
    """A server that sends impossible limits broke the rules: no `Rejected`."""
    status = {
        "id": "j",
        "owner": "alice",
        "command": [b"a"],
        "state": "running",
        "created_at": 0,
        "limits": {"cpu": 0},
    }
    frame = pack({"type": "job", "id": 7, "status": status})

    with pytest.raises(RemoteProtocolError, match="cpu = 0"):
        decode(frame[LENGTH.size :], FROM_SERVER)


@pytest.mark.parametrize("name", [None, 1, b"ping", [[[[]]]], "PING", "x" * 1000])
def test_unknown_types_are_refused(name: object) -> None:
    """A message of no known type is refused, with a short message."""
    frame = pack({"type": name})[LENGTH.size :]

    with pytest.raises(RemoteProtocolError, match=r"^unknown message type .{1,80}$"):
        decode(frame, FROM_CLIENT)


@pytest.mark.parametrize("size", [0, 1, MAX_CHUNK])
def test_chunks_are_packed_without_a_copy(size: int) -> None:
    """The data of a chunk is handed on as it is, and reads like any message."""
    data = b"x" * size
    head, tail = encode(OutputChunk(3, 1 << 40, data))

    assert tail is data
    assert OutputChunk(3, 1 << 40, data) == decode(
        head[LENGTH.size :] + tail, FROM_SERVER
    )


@pytest.mark.parametrize(
    "message",
    [
        OutputChunk(1, 0, bytes(MAX_CHUNK + 1)),
        ErrorResponse("internal", "x", None, {"x": "y" * MAX_FRAME}),
        ClientHello(1, "\udcff"),
        Ping(1 << 64),
        Rejected(1, InvalidRequest("no")),
    ],
    ids=lambda message: message.type,
)
def test_what_no_peer_takes_is_not_packed(message: Message) -> None:
    """A message that breaks a limit is our own mistake, found before it is sent."""
    with pytest.raises(LocalProtocolError):
        encode(message)


def test_a_page_with_too_many_values_is_not_packed() -> None:
    """A page is bounded by its values too: its sender makes it shorter."""
    status = JobStatus(
        "j", "alice", (b"x",) * 200, JobState.RUNNING, created_at=0, limits=Limits()
    )

    assert encode(ListResponse(1, (status,) * 250))

    with pytest.raises(LocalProtocolError, match="no peer takes"):
        encode(ListResponse(1, (status,) * MAX_PAGE))


def test_a_value_that_its_class_refuses_is_refused() -> None:
    """A configuration that cannot be is a breach like any other, on any channel."""
    (frame,) = encode(Reload(Config()))
    value = unpack(frame[LENGTH.size :])
    value["config"] = {"daemon": {"listen": "nowhere"}}

    with pytest.raises(RemoteProtocolError, match="nowhere"):
        decode(pack(value)[LENGTH.size :], FROM_KEEPER)

    with pytest.raises(RemoteProtocolError, match="nowhere"):
        load_record(Config, pack(value["config"])[LENGTH.size :])


@given(specs)
def test_records_round_trip(spec: JobSpec) -> None:
    """A record that was packed alone is the same again."""
    assert spec == load_record(JobSpec, dump_record(spec))


@pytest.mark.parametrize("data", [b"", b"\x90", b"\x80", b"\x81\xa7command\x90"])
def test_damaged_records_are_refused(data: bytes) -> None:
    """What is no such record, or an impossible one, is a `RemoteProtocolError`."""
    with pytest.raises(RemoteProtocolError):
        load_record(JobSpec, data)
