"""Both ends begin with their hellos, or not at all."""

import pytest

from teleworkerd.protocol.codec import encode
from teleworkerd.protocol.connection import (
    ClientConnection,
    ConnectionState,
    ServerConnection,
)
from teleworkerd.protocol.errors import (
    RemoteProtocolError,
    UnsupportedVersion,
)
from teleworkerd.protocol.framing import LENGTH, MAX_FRAME_BEFORE_HELLO
from teleworkerd.protocol.messages import (
    ClientHello,
    InfoRequest,
    Message,
    OutputRequest,
    Ping,
    RunRequest,
)
from teleworkerd.protocol.responses import (
    ErrorResponse,
    Goaway,
    ServerHello,
)
from teleworkerd.protocol.spec import JobSpec
from tests.protocol.pair import carry, failure, feed, greeted, refuses


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


def test_a_client_asks_nothing_before_hello() -> None:
    """Until it knows the version, a client says nothing."""
    assert refuses(ClientConnection(agent="c"), InfoRequest(1))
