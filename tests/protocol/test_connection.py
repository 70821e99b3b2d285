"""A client and a server, joined in memory, keep the rules and see who breaks them."""

import pytest

from teleworkerd.protocol.codec import encode
from teleworkerd.protocol.connection import (
    ClientConnection,
    ConnectionState,
    ServerConnection,
)
from teleworkerd.protocol.errors import (
    AmbiguousJob,
    InvalidRequest,
    LocalProtocolError,
    ProtocolViolation,
    RemoteProtocolError,
    UnsupportedVersion,
)
from teleworkerd.protocol.framing import LENGTH, MAX_FRAME_BEFORE_HELLO
from teleworkerd.protocol.messages import (
    MAX_CREDIT,
    MAX_REQUESTS,
    Cancel,
    ClientHello,
    Credit,
    DoneResponse,
    ErrorResponse,
    Goaway,
    InfoRequest,
    KillRequest,
    Message,
    OutputChunk,
    OutputEnd,
    OutputRequest,
    OutputResponse,
    Ping,
    Pong,
    RunRequest,
    ServerHello,
    StatusRequest,
)
from teleworkerd.protocol.roles import Rejected
from teleworkerd.protocol.types import JobSpec
from tests.protocol.pair import carry, failure, feed, greeted, refuses


def reading(credit: int = 10) -> tuple[ClientConnection, ServerConnection]:
    """Return both ends with output request 1 open at offset 100."""
    client, server = greeted()
    client.send(OutputRequest(1, "j", offset=100, follow=True, credit=credit))
    carry(client, server)
    server.send(OutputResponse(1, "j", 100))
    carry(server, client)
    return client, server


def test_the_server_speaks_first() -> None:
    """The server's hello waits before anything was received; the client's does not."""
    client = ClientConnection(agent="c")
    server = ServerConnection(name="alice", server="s")

    assert client.data_to_send() == []
    assert carry(server, client) == [ServerHello((1,), "s", "alice")]


def test_hellos_open_the_connection() -> None:
    """Each end is open once it has the other's hello, and knows who it talks to."""
    client, server = greeted()

    assert ConnectionState.OPEN is client.state is server.state
    assert server.agent == "client 1.0"


def test_messages_arrive_whole_and_in_order() -> None:
    """Bytes may arrive one at a time."""
    client, server = greeted()
    client.send(InfoRequest(1))
    client.send(StatusRequest(2, "j"))
    found: list[Message] = []

    for byte in b"".join(client.data_to_send()):
        server.receive_data(bytes([byte]))
        found += server.events()

    assert found == [InfoRequest(1), StatusRequest(2, "j")]


@pytest.mark.parametrize(
    "message", [ServerHello((2, 3), "s", "n"), ServerHello((), "s", "n")]
)
def test_no_common_version_for_the_client(message: ServerHello) -> None:
    """A client that finds no version of its own says which there are."""
    client = ClientConnection(agent="c")
    error = failure(client, b"".join(encode(message)))

    assert isinstance(error, UnsupportedVersion)
    assert client.state is ConnectionState.CLOSED
    assert client.data_to_send() == []


def test_a_newer_server_is_welcome() -> None:
    """A client of version 1 chooses 1 from several."""
    client = ClientConnection(agent="c")
    client.receive_data(b"".join(encode(ServerHello((2, 1), "s", "n"))))
    assert list(client.events())

    assert client.data_to_send() == encode(ClientHello(1, "c"))


def test_no_common_version_for_the_server() -> None:
    """The server answers a version that it does not speak, and closes."""
    client, server = ClientConnection(agent="c"), ServerConnection(name="n", server="s")
    carry(server, client)
    error = failure(server, b"".join(encode(ClientHello(2))))

    assert isinstance(error, UnsupportedVersion)

    with pytest.raises(UnsupportedVersion, match="this server speaks 1"):
        carry(server, client)


@pytest.mark.parametrize("message", [Ping(), InfoRequest(1)], ids=["ping", "info"])
def test_nothing_before_the_client_hello(message: Message) -> None:
    """The first message of a client is its hello."""
    server = ServerConnection(name="n", server="s")

    assert isinstance(failure(server, b"".join(encode(message))), RemoteProtocolError)


@pytest.mark.parametrize("message", [Ping(), Goaway("")], ids=["ping", "goaway"])
def test_nothing_before_the_server_hello(message: Message) -> None:
    """The first message of a server is its hello, or an error."""
    client = ClientConnection(agent="c")

    assert isinstance(failure(client, b"".join(encode(message))), RemoteProtocolError)


def test_an_error_instead_of_a_hello() -> None:
    """A server that is full may say so at once."""
    client = ClientConnection(agent="c")
    error = failure(client, b"".join(encode(ErrorResponse("unavailable", "full"))))

    assert str(error) == "full"


@pytest.mark.parametrize("side", [0, 1])
def test_a_second_hello_is_refused(side: int) -> None:
    """Hellos are for once."""
    receiver = greeted()[side]
    hello = (ServerHello((1,), "s", "n"), ClientHello(1))[side]

    assert isinstance(failure(receiver, b"".join(encode(hello))), RemoteProtocolError)


def test_frames_are_short_before_the_hello() -> None:
    """Who has not said hello may not make the other side buffer much."""
    server = ServerConnection(name="n", server="s")
    error = failure(server, LENGTH.pack(MAX_FRAME_BEFORE_HELLO + 1))

    assert isinstance(error, RemoteProtocolError)


def test_the_server_says_why_it_closes() -> None:
    """The last word of the server reaches a client that broke a rule."""
    client, server = greeted()
    assert isinstance(failure(server, LENGTH.pack(0)), RemoteProtocolError)

    with pytest.raises(ProtocolViolation, match="a frame of 0 bytes"):
        carry(server, client)


def test_a_closed_connection_takes_nothing() -> None:
    """After the end there are no events, no memory is used and nothing is sent."""
    client, server = greeted()
    server.close()
    client.send(Ping(1))

    assert carry(client, server) == []
    assert server.data_to_send() == []
    assert refuses(server, Goaway("late"))


def test_events_stop_when_closed_in_between() -> None:
    """Whoever closes while handling an event sees no further one."""
    client, server = greeted()
    client.send(InfoRequest(1))
    client.send(InfoRequest(2))

    for piece in client.data_to_send():
        server.receive_data(piece)

    found = []

    for event in server.events():
        found.append(event)
        server.close()

    assert found == [InfoRequest(1)]


def test_pings_are_answered_by_themselves() -> None:
    """Neither ping nor pong is an event; the number comes back."""
    client, server = greeted()
    server.send(Ping(7))

    assert carry(server, client) == []
    assert client.data_to_send() == encode(Pong(7))

    client.send(Ping(8))

    assert carry(client, server) == []
    assert carry(server, client) == []


def test_goaway_is_an_event() -> None:
    """The connection goes on until the server closes it."""
    client, server = greeted()
    server.send(Goaway("restart"))

    assert carry(server, client) == [Goaway("restart")]
    assert client.state is ConnectionState.OPEN


def test_ids_are_free_again_once_answered() -> None:
    """One id, one request at a time."""
    client, server = greeted()

    for _ in range(2):
        client.send(KillRequest(1, "j"))
        assert refuses(client, InfoRequest(1))
        assert carry(client, server) == [KillRequest(1, "j")]
        server.send(DoneResponse(1, "j"))
        assert refuses(server, DoneResponse(1, "j"))
        assert carry(server, client) == [DoneResponse(1, "j")]


def test_an_id_in_use_is_refused() -> None:
    """A client that uses an id twice at a time broke a rule."""
    _, server = greeted()
    request = b"".join(encode(InfoRequest(1)))

    assert isinstance(failure(server, request * 2), RemoteProtocolError)


def test_requests_in_flight_are_bounded() -> None:
    """The client stops itself at the most that the server takes."""
    client, server = greeted()

    for number in range(MAX_REQUESTS):
        client.send(InfoRequest(number))

    assert refuses(client, InfoRequest(MAX_REQUESTS))
    assert len(carry(client, server)) == MAX_REQUESTS

    error = failure(server, b"".join(encode(InfoRequest(MAX_REQUESTS))))

    assert isinstance(error, RemoteProtocolError)


def test_the_client_keeps_to_what_the_server_takes() -> None:
    """The limits in the hello count, not those that the client would like."""
    client = ClientConnection(agent="c")
    limits = {"max_requests": 1, "max_credit": 5, "max_frame": 100}
    hello = {"type": "hello", "versions": [1], "server": "s", "name": "n"}
    assert feed(client, {**hello, "limits": limits})

    assert refuses(client, OutputRequest(1, "j", credit=6))
    assert refuses(client, RunRequest(1, "r" * 100, JobSpec((b"a",))))
    client.send(InfoRequest(1))
    assert refuses(client, InfoRequest(2))


def test_an_invalid_request_is_answered_alone() -> None:
    """A spec that cannot be is an event, and its error leaves the connection open."""
    client, server = greeted()
    run = {"type": "run", "id": 3, "request_id": "r", "spec": {"command": []}}
    (event,) = feed(server, run)
    client.send(InfoRequest(3))
    client.data_to_send()

    assert isinstance(event, Rejected)
    assert refuses(server, DoneResponse(3, "j"))

    server.send(ErrorResponse(event.error.code, event.error.message, 3))

    assert isinstance(event.error, InvalidRequest)
    assert [ErrorResponse("invalid_request", event.error.message, 3)] == carry(
        server, client
    )


def test_an_error_ends_its_request() -> None:
    """A request is answered by its response or by an error, not both."""
    client, server = greeted()
    client.send(InfoRequest(1))
    carry(client, server)
    error = ErrorResponse(AmbiguousJob.code, "two", 1, {"jobs": ["a", "b"]})
    server.send(error)

    assert refuses(server, error)
    assert carry(server, client) == [error]
    assert isinstance(failure(client, b"".join(encode(error))), RemoteProtocolError)


@pytest.mark.parametrize(
    "response",
    [DoneResponse(1, "j"), DoneResponse(2, "j"), OutputResponse(1, "j", 0)],
    ids=["wrong-type", "no-such-request", "opened"],
)
def test_an_answer_fits_its_request(response: Message) -> None:
    """Both ends see a response that was not asked for."""
    client, server = greeted()
    client.send(InfoRequest(1))
    carry(client, server)

    assert refuses(server, response)
    assert isinstance(failure(client, b"".join(encode(response))), RemoteProtocolError)


@pytest.mark.parametrize(
    ("side", "message"),
    [
        (0, ServerHello((1,), "s", "n")),
        (0, ClientHello(1)),
        (0, DoneResponse(1, "j")),
        (1, ServerHello((1,), "s", "n")),
        (1, InfoRequest(1)),
        (1, Rejected(1, InvalidRequest("no"))),
    ],
)
def test_each_side_sends_its_own(side: int, message: Message) -> None:
    """A message of the other side, or a hello, is our own mistake."""
    assert refuses(greeted()[side], message)


def test_a_client_asks_nothing_before_hello() -> None:
    """Until it knows the version, a client says nothing."""
    assert refuses(ClientConnection(agent="c"), InfoRequest(1))


def test_a_message_that_cannot_be_sent_changes_nothing() -> None:
    """A response that is too long may be followed by a shorter one."""
    client, server = greeted()
    client.send(InfoRequest(1))
    carry(client, server)

    with pytest.raises(LocalProtocolError):
        server.send(ErrorResponse("internal", "x", 1, {"x": "x" * (3 << 20)}))

    server.send(ErrorResponse("internal", "too long", 1))

    assert len(carry(server, client)) == 1


def test_output_flows_within_its_credit() -> None:
    """Chunks use up credit, and more may be given."""
    client, server = reading(credit=10)
    server.send(OutputChunk(1, 100, b"0123456"))

    assert server.credit(1) == 3
    assert refuses(server, OutputChunk(1, 107, b"789x"))

    carry(server, client)
    client.send(Credit(1, 5))
    carry(client, server)

    assert server.credit(1) == 8

    server.send(OutputChunk(1, 107, b"789x"))
    server.send(OutputEnd(1, 111, complete=False))

    assert len(carry(server, client)) == 2
    assert server.credit(1) == 0


@pytest.mark.parametrize(
    "message",
    [
        OutputResponse(1, "j", 100),
        OutputChunk(1, 99, b"x"),
        OutputChunk(1, 101, b"x"),
        OutputChunk(1, 100, b"12345678901"),
        OutputEnd(1, 99, complete=False),
        OutputEnd(1, 101, complete=True),
    ],
    ids=["again", "back", "gap", "credit", "end-back", "end-gap"],
)
def test_output_has_no_gap(message: Message) -> None:
    """Both ends see a byte that is lost, repeated, or more than was asked for."""
    client, server = reading(credit=10)

    assert refuses(server, message)
    assert isinstance(failure(client, b"".join(encode(message))), RemoteProtocolError)


@pytest.mark.parametrize(
    "message",
    [
        OutputChunk(1, 0, b"x"),
        OutputEnd(1, 0, complete=True),
        OutputResponse(1, "j", 5),
    ],
    ids=["chunk", "end", "offset"],
)
def test_output_is_opened_first(message: Message) -> None:
    """Output begins with `opened`, at the offset that was asked for."""
    client, server = greeted()
    client.send(OutputRequest(1, "j", credit=10))
    carry(client, server)

    assert refuses(server, message)
    assert isinstance(failure(client, b"".join(encode(message))), RemoteProtocolError)


def test_output_may_fail_after_it_was_opened() -> None:
    """An error ends an output request in the middle."""
    client, server = reading()
    server.send(OutputChunk(1, 100, b"x"))
    server.send(ErrorResponse("unavailable", "the disk is gone", 1))

    assert len(carry(server, client)) == 2
    assert refuses(client, Cancel(1))


def test_credit_is_bounded() -> None:
    """Neither end lets credit grow beyond its bound."""
    client, server = reading(credit=MAX_CREDIT - 1)
    assert refuses(client, Credit(1, 2))
    client.send(Credit(1, 1))
    carry(client, server)

    error = failure(server, b"".join(encode(Credit(1, 1))))

    assert isinstance(error, RemoteProtocolError)


def test_credit_for_what_has_ended_is_void() -> None:
    """Credit and cancel may cross the end of their request on the way."""
    client, server = reading()
    client.send(Credit(1, 1))
    client.send(Cancel(1))
    server.send(OutputEnd(1, 100, complete=False))

    assert carry(client, server) == [Credit(1, 1), Cancel(1)]
    assert server.credit(1) == 0


def test_credit_is_for_output() -> None:
    """A client gives no credit to a request that is not of output, or not open."""
    client, server = greeted()
    client.send(InfoRequest(1))
    carry(client, server)

    assert refuses(client, Credit(1, 1))
    assert refuses(client, Credit(2, 1))
    assert feed(server, {"type": "credit", "id": 1, "bytes": 1}) == [Credit(1, 1)]
    assert server.credit(1) == 0


def test_a_rejected_request_holds_no_memory_of_the_connection() -> None:
    """Whoever keeps the error does not keep the next bytes from coming in."""
    _, server = greeted()
    wrong = {"type": "stop", "id": 1, "job": "j", "grace": -5.0}
    [rejected] = feed(server, wrong)

    assert isinstance(rejected, Rejected)
    assert failure(server, LENGTH.pack(1 << 20) + bytes(200_000)) is None


def test_a_broken_frame_holds_no_memory_of_the_connection() -> None:
    """A transport may ask for memory until it is closed, while the error is told."""
    client, _ = greeted()
    error = failure(client, LENGTH.pack(1) + b"\xc1" + bytes(100))

    assert isinstance(error, RemoteProtocolError)
    assert len(client.get_buffer(1 << 20)) >= 1 << 20
