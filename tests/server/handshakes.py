"""Handshakes with the server's real context, in memory and over sockets."""

import socket
import ssl
from contextlib import suppress

import pytest

from teleworkerd.certfiles import read_files
from teleworkerd.counters import Refusal
from teleworkerd.server.tls import AlertingSSLObject, handshake_failed, server_context
from tests.e2e.pki import Certificates, Identity
from tests.server.peers import Server, client_context


_ROUNDS = 4  # each side's turns; the server is done after its second


def shake_hands(certs: Certificates, identity: Identity) -> ssl.SSLObject:
    """Return the server's end after the handshake; raises what OpenSSL says of it."""
    failures: list[ssl.SSLError] = []
    token = handshake_failed.set(failures.append)

    try:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = server_context(read_files(certs.directory))
        server = context.wrap_bio(to_server, to_client, server_side=True)
    finally:
        handshake_failed.reset(token)

    client = client_context(certs, identity).wrap_bio(
        to_client, to_server, server_hostname="localhost"
    )
    assert isinstance(server, AlertingSSLObject)

    for _ in range(_ROUNDS):
        for side in (client, server):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()

        if failures:
            raise failures[0]

    return server


def alert_of(server: Server, context: ssl.SSLContext) -> str:
    """Shake hands and listen; return TLS's alert."""
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw,
        pytest.raises((ssl.SSLError, ConnectionError)) as caught,
        context.wrap_socket(raw, server_hostname="localhost") as secure,
    ):
        secure.recv(4096)

    return str(caught.value)


def counted(server: Server) -> dict[Refusal, int]:
    """Return how many were refused for what."""
    return {why: count for why, count in server.counters.refusals.items() if count}
