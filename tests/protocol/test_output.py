"""Output flows without a gap, and within the credit that was given."""

import pytest

from teleworkerd.protocol.codec import encode
from teleworkerd.protocol.connection import (
    ClientConnection,
    ServerConnection,
)
from teleworkerd.protocol.errors import (
    RemoteProtocolError,
)
from teleworkerd.protocol.messages import (
    MAX_CREDIT,
    Cancel,
    Credit,
    InfoRequest,
    Message,
    OutputRequest,
)
from teleworkerd.protocol.responses import (
    ErrorResponse,
    OutputChunk,
    OutputEnd,
    OutputResponse,
)
from tests.protocol.pair import carry, failure, feed, greeted, refuses


def reading(credit: int = 10) -> tuple[ClientConnection, ServerConnection]:
    """Return both ends with output request 1 open at offset 100."""
    client, server = greeted()
    client.send(OutputRequest(1, "j", offset=100, follow=True, credit=credit))
    carry(client, server)
    server.send(OutputResponse(1, "j", 100))
    carry(server, client)
    return client, server


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
