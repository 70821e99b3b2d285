"""Peers that are not what they should be: raw clients and servers over sockets."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from tests.e2e.pki import Certificates, Identity


PATIENCE: Final = 15.0  # seconds; more than the daemon gives a silent peer


def connect(address: str, source: str = "") -> socket.socket:
    """Connect to HOST:PORT without TLS, from the address *source*."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), PATIENCE, (source, 0))


def context_of(certs: Certificates, identity: Identity | None) -> ssl.SSLContext:
    """Return a client's context that sends the certificate of *identity*, if any."""
    context = ssl.create_default_context(cafile=str(certs.ca))
    context.set_alpn_protocols(["teleworker/1"])

    if identity is not None:
        context.load_cert_chain(identity.cert, identity.key)

    return context


def try_handshake(
    address: str, certs: Certificates, identity: Identity | None, source: str = ""
) -> tuple[int, bytes]:
    """Shake hands, from the address *source*, and wait for the server's first words.

    Returns the local port and the words: empty when the server refuses, for a
    refusal arrives after the client's side of the handshake.
    """
    context = context_of(certs, identity)

    with (
        connect(address, source) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secure,
    ):
        port = secure.getsockname()[1]

        try:
            return port, secure.recv(4096)
        except (ssl.SSLError, ConnectionError):
            return port, b""


def talk(connection: socket.socket, data: bytes) -> bytes:
    """Send *data* and return all that is answered until the peer closes."""
    response = bytearray()

    with suppress(ConnectionError, ssl.SSLError):
        connection.sendall(data)

        while more := connection.recv(65536):
            response += more

    return bytes(response)


@contextmanager
def impostor(identity: Identity) -> Iterator[str]:
    """A server on loopback with the certificate of *identity*; yields its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.cert, identity.key)
    context.set_alpn_protocols(["teleworker/1"])

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    raw, _ = listener.accept()
                except OSError:  # shut down: the end of the test
                    return

                raw.settimeout(PATIENCE)

                with raw, suppress(OSError):
                    context.wrap_socket(raw, server_side=True).close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        host, port = listener.getsockname()

        try:
            yield f"{host}:{port}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)
