"""What may be sent to a job's stdin, and what may answer that."""

import pytest

from teleworkerd.protocol.connection import ClientConnection, ServerConnection
from teleworkerd.protocol.errors import LocalProtocolError, RemoteProtocolError
from teleworkerd.protocol.messages import (
    MAX_INPUT,
    InfoRequest,
    InputData,
    InputRequest,
    Message,
    Response,
)
from teleworkerd.protocol.responses import (
    ErrorResponse,
    InputEnd,
    InputResponse,
    InputTaken,
)
from teleworkerd.protocol.types import InputEndReason
from tests.protocol.pair import carry, greeted


EOF, ENDED = InputEndReason.EOF, InputEndReason.ENDED
Ends = tuple[ClientConnection, ServerConnection]
ASKED = InputRequest(1, "j", "s")
OPENED = InputResponse(1, "j", 5)
FULL = InputData(1, 5, b"x" * MAX_INPUT)


def after(*messages: Message) -> Ends:
    """Return both ends after *messages*, each sent by the side whose it is."""
    client, server = greeted()

    for message in messages:
        is_answer = isinstance(message, Response)
        sender, receiver = (server, client) if is_answer else (client, server)
        sender.send(message)
        assert carry(sender, receiver) == [message]

    return client, server


@pytest.mark.parametrize(
    ("before", "data"),
    [
        ((ASKED, OPENED), InputData(1, 5, b"x")),
        ((ASKED, OPENED), InputData(1, 5, eof=True)),
        ((ASKED, OPENED), FULL),
        ((ASKED, OPENED, InputData(1, 5, b"xy")), InputData(1, 7, b"z", eof=True)),
        ((ASKED, OPENED, FULL, InputTaken(1, 6)), InputData(1, 5 + MAX_INPUT, b"x")),
    ],
)
def test_data_that_fits(before: tuple[Message, ...], data: InputData) -> None:
    """Bytes go where those before ended, up to 256 KiB beyond what was taken."""
    client, server = after(*before)

    client.send(data)

    assert carry(client, server) == [data]


@pytest.mark.parametrize(
    ("before", "data"),
    [
        ((ASKED,), InputData(1, 0, b"x")),
        ((ASKED, OPENED), InputData(1, 4, b"x")),
        ((ASKED, OPENED), InputData(1, 6, b"x")),
        ((ASKED, OPENED, InputData(1, 5, b"x")), FULL),
        ((ASKED, OPENED, FULL), InputData(1, 5 + MAX_INPUT, b"x")),
        ((ASKED, OPENED, InputData(1, 5, eof=True)), InputData(1, 5, b"x")),
        ((ASKED, OPENED, InputData(1, 5, eof=True)), InputData(1, 5, eof=True)),
        ((InfoRequest(1),), InputData(1, 0, b"x")),
        (
            (ASKED, InputResponse(1, "j", (1 << 63) - 2)),
            InputData(1, (1 << 63) - 2, b"xy"),
        ),
    ],
)
def test_data_that_does_not_fit(
    before: tuple[Message, ...], data: InputData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes elsewhere, too many or too late are refused by both ends."""
    client, server = after(*before)

    with pytest.raises(LocalProtocolError):
        client.send(data)

    deaf, _ = after(*before)
    monkeypatch.setattr(deaf, "_check", lambda _: None)
    deaf.send(data)

    with pytest.raises(RemoteProtocolError):
        carry(deaf, server)


def test_data_without_a_request() -> None:
    """Bytes that cross the end of their request are no breach; later ones are."""
    client, server = after(ASKED, OPENED)
    late = InputData(1, 9, b"x")
    client.send(InputData(1, 5, b"four"))
    client.send(late)
    server.send(InputEnd(1, 5, ENDED))

    assert late in carry(client, server)

    carry(server, client)

    with pytest.raises(LocalProtocolError):
        client.send(InputData(1, 6, b"x"))


@pytest.mark.parametrize(
    ("before", "answer"),
    [
        ((ASKED,), OPENED),
        ((ASKED,), InputEnd(1, 9, EOF)),
        ((ASKED,), ErrorResponse("job_not_found", "no", 1)),
        ((ASKED, OPENED), InputEnd(1, 5, ENDED)),
        ((ASKED, OPENED, InputData(1, 5, b"xyz")), InputTaken(1, 7)),
        ((ASKED, OPENED, InputData(1, 5, b"xyz")), InputEnd(1, 8, EOF)),
        ((ASKED, OPENED, InputData(1, 5, b"xyz"), InputTaken(1, 7)), InputTaken(1, 7)),
    ],
)
def test_answers_that_fit(before: tuple[Message, ...], answer: Message) -> None:
    """Taken is what was sent, and it does not get less."""
    client, server = after(*before)

    server.send(answer)

    assert carry(server, client) == [answer]


@pytest.mark.parametrize(
    ("before", "answer"),
    [
        ((ASKED,), InputTaken(1, 0)),
        ((ASKED, OPENED), OPENED),
        ((ASKED, OPENED), InputTaken(1, 4)),
        ((ASKED, OPENED), InputTaken(1, 6)),
        ((ASKED, OPENED), InputEnd(1, 0, ENDED)),
        ((ASKED, OPENED, InputData(1, 5, b"xyz"), InputTaken(1, 7)), InputTaken(1, 6)),
        ((ASKED, OPENED, InputEnd(1, 5, ENDED)), InputTaken(1, 5)),
        ((InfoRequest(1),), OPENED),
    ],
)
def test_answers_that_do_not_fit(before: tuple[Message, ...], answer: Message) -> None:
    """The server takes nothing that was not sent, and takes nothing back."""
    _, server = after(*before)

    with pytest.raises(LocalProtocolError):
        server.send(answer)


def test_room() -> None:
    """A client knows how much it may send."""
    client, server = after(ASKED)
    before = client.input_room(1)
    server.send(OPENED)
    carry(server, client)
    opened = client.input_room(1)
    client.send(InputData(1, 5, b"x" * 100))
    sent = client.input_room(1)
    carry(client, server)
    server.send(InputTaken(1, 65))
    carry(server, client)

    assert (before, opened, sent) == (MAX_INPUT, MAX_INPUT, MAX_INPUT - 100)
    assert client.input_room(1) == MAX_INPUT - 40
    assert client.input_room(2) == 0
