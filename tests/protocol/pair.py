"""A client and a server joined in memory."""

from teleworkerd.protocol.codec import pack
from teleworkerd.protocol.connection import (
    ClientConnection,
    Connection,
    ServerConnection,
)
from teleworkerd.protocol.errors import (
    LocalProtocolError,
    RemoteProtocolError,
    RequestError,
)
from teleworkerd.protocol.messages import Message


Failure = RemoteProtocolError | RequestError


def carry(sender: Connection, receiver: Connection) -> list[Message]:
    """Move all bytes from *sender* to *receiver*; return what arrived."""
    for piece in sender.data_to_send():
        receiver.receive_data(piece)

    return list(receiver.events())


def greeted() -> tuple[ClientConnection, ServerConnection]:
    """Return both ends of a connection whose hellos have been exchanged."""
    client = ClientConnection(agent="client 1.0")
    server = ServerConnection(name="alice", server="server 1.0")
    carry(server, client)
    carry(client, server)
    return client, server


def feed(receiver: Connection, value: object) -> list[Message]:
    """Give *receiver* one frame that holds *value*; return what arrived."""
    receiver.receive_data(pack(value))
    return list(receiver.events())


def failure(receiver: Connection, data: bytes) -> Failure | None:
    """Give *receiver* the bytes; return what it raised, or None."""
    receiver.receive_data(data)

    try:
        list(receiver.events())
    except (RemoteProtocolError, RequestError) as error:
        return error

    return None


def refuses(sender: Connection, message: Message) -> bool:
    """Try to send *message*; return whether *sender* saw that it must not."""
    try:
        sender.send(message)
    except LocalProtocolError:
        return True

    return False
