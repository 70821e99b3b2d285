"""Servers that get no further than the handshake, and say why, as OpenSSL does."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from teleworkerd.protocol.messages import ALPN
from tests.e2e.pki import Certificates


PATIENCE: Final = 15.0  # seconds

Talk = Callable[[socket.socket], None]


def strict_context(certs: Certificates, *, crl: Path | None = None) -> ssl.SSLContext:
    """Return how a daemon with the files of *certs* speaks TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    identity = certs.of("server")
    context.load_cert_chain(identity.cert, identity.key)
    context.load_verify_locations(certs.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols([ALPN])

    if crl is not None:
        context.load_verify_locations(crl)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF

    return context


@contextmanager
def shaking_hands(context: ssl.SSLContext) -> Iterator[str]:
    """Serve handshakes on loopback, one at a time; yields the address.

    Its alerts reach the client: what it reads is read to its end.
    """

    def shake(raw: socket.socket) -> None:
        try:
            context.wrap_socket(raw, server_side=True).close()
        except ssl.SSLError:
            drain(raw)

    with listening(shake) as address:
        yield address


@contextmanager
def listening(talk: Talk) -> Iterator[str]:
    """Accept connections on loopback and *talk* with each; yields the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    raw, _ = listener.accept()
                except OSError:  # shut down: the end of the test
                    return

                raw.settimeout(PATIENCE)

                with raw, suppress(OSError):
                    talk(raw)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        host, port = listener.getsockname()

        try:
            yield f"{host}:{port}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)


def drain(raw: socket.socket) -> None:
    """Read until the peer closes, so that what was sent is not lost by a reset."""
    raw.shutdown(socket.SHUT_WR)

    while socket.socket.recv(raw, 4096):
        pass
