"""A client and a server, joined in memory, keep the rules and see who breaks them."""

import pytest

from teleworkerd.protocol.codec import encode
from teleworkerd.protocol.connection import (
    ConnectionState,
)
from teleworkerd.protocol.errors import (
    AmbiguousJob,
    InvalidRequest,
    LocalProtocolError,
    ProtocolViolation,
    RemoteProtocolError,
)
from teleworkerd.protocol.framing import LENGTH
from teleworkerd.protocol.messages import (
    MAX_REQUESTS,
    ClientHello,
    InfoRequest,
    KillRequest,
    Message,
    OutputRequest,
    Ping,
    Pong,
    RunRequest,
    StatusRequest,
)
from teleworkerd.protocol.responses import (
    DoneResponse,
    ErrorResponse,
    Goaway,
    OutputResponse,
    ServerHello,
)
from teleworkerd.protocol.roles import Rejected
from teleworkerd.protocol.spec import JobSpec
from tests.protocol.pair import carry, failure, feed, greeted, refuses
from tests.protocol.samples import exchange


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


def test_the_server_says_why_it_closes() -> None:
    """The last word of the server reaches a client that broke a rule."""
    client, server = greeted()
    assert isinstance(failure(server, LENGTH.pack(0)), RemoteProtocolError)

    with pytest.raises(ProtocolViolation, match="a frame of 0 bytes"):
        carry(server, client)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    "bad",
    [LENGTH.pack(0), LENGTH.pack(1) + b"\xc1", LENGTH.pack((1 << 32) - 1)],
    ids=["empty", "no-message", "too-long"],
)
def test_nothing_is_read_after_a_bad_frame(side: int, bad: bytes) -> None:
    """Where the next frame would begin is not guessed, however good what follows is."""
    receiver = greeted()[side]
    good = b"".join(encode(Ping(7)) + encode((Goaway(""), InfoRequest(1))[side]))
    assert isinstance(failure(receiver, bad + good), RemoteProtocolError)
    receiver.data_to_send()

    assert failure(receiver, good) is None
    assert list(receiver.events()) == []
    assert receiver.data_to_send() == []
    assert receiver.state is ConnectionState.CLOSED


def test_a_bad_frame_does_not_take_back_what_came_before() -> None:
    """What was asked before the breach has arrived, and nothing after it."""
    _, server = greeted()
    server.receive_data(b"".join(encode(InfoRequest(1))) + LENGTH.pack(0))
    events = server.events()

    assert next(events) == InfoRequest(1)

    with pytest.raises(RemoteProtocolError):
        next(events)


def test_an_exchange_survives_a_cut_at_every_position() -> None:
    """Where the network cuts what a server sends makes no difference to a client."""
    frames = [data for sender, _, data in exchange() if sender == "server"]
    whole = b"".join(frames[1:])
    run = RunRequest(1, "r", JobSpec((b"echo", b"hi")))
    output = OutputRequest(2, "j", follow=True, credit=1 << 20)

    for cut in range(len(whole) + 1):
        client, _ = greeted()
        client.send(run)
        client.send(output)
        found: list[str] = []

        for part in (whole[:cut], whole[cut:]):
            client.receive_data(part)
            found += [message.type for message in client.events()]

        assert found == ["started", "opened", "chunk", "end"]


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


def test_a_message_that_cannot_be_sent_changes_nothing() -> None:
    """A response that is too long may be followed by a shorter one."""
    client, server = greeted()
    client.send(InfoRequest(1))
    carry(client, server)

    with pytest.raises(LocalProtocolError):
        server.send(ErrorResponse("internal", "x", 1, {"x": "x" * (3 << 20)}))

    server.send(ErrorResponse("internal", "too long", 1))

    assert len(carry(server, client)) == 1


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
