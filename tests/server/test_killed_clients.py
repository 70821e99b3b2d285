"""Clients that are killed while much is sent to them."""

import asyncio
import socket
import struct

import pytest

from teleworkerd.protocol.messages import Ping
from tests.e2e.pki import Certificates
from tests.server.peers import Client, Peers, serving, until


ABRUPT: bytes = struct.pack("ii", 1, 0)  # of SO_LINGER: unread data is given up


def kill(client: Client, way: str) -> None:
    """End the connection as the kernel does it for a process that is gone."""
    sock = client.writer.get_extra_info("socket")

    if way == "reset":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABRUPT)
        client.writer.transport.abort()
    else:
        with socket.socket(fileno=sock.fileno()) as same:
            same.shutdown(socket.SHUT_RDWR)
            same.detach()


@pytest.mark.parametrize("way", ["reset", "end"])
async def test_nothing_is_said_of_it(
    certs: Certificates, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody writes to a connection that is lost, before it is known or after."""
    sent = 0

    async def swallow(client: Client) -> None:
        while await client.reader.read(1 << 16):
            continue

    async with serving(certs) as server, Peers() as peers:
        client = await peers.connect(server, certs)
        session = server.session()

        async def flood() -> None:
            nonlocal sent

            while not session.is_lost:
                for _ in range(20):
                    await session.send(Ping(7))
                    sent += 1

                await asyncio.sleep(0)

        sending = asyncio.create_task(flood())
        reading = asyncio.create_task(swallow(client))
        await until(lambda: sent > 1000, what="much that is sent")
        kill(client, way)
        await asyncio.gather(sending, reading, return_exceptions=True)
        await until(lambda: not server.sessions, what="the end of the session")

    assert [record for record in caplog.records if record.name == "asyncio"] == []
