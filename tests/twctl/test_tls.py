"""What a user reads when the two sides do not accept each other."""

import asyncio
import socket
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from teleworkerd.protocol.errors import (
    ConnectionClosed,
    PermissionDenied,
    RemoteProtocolError,
    TeleworkerError,
    TooMany,
    Unavailable,
)
from tests.e2e.authority import CLIENT, Authority, Signed, directory_of
from tests.e2e.pki import DAY, Certificates
from tests.twctl.fake import FakeServer, context_of, profile_of, serving
from tests.twctl.impostors import shaking_hands, strict_context
from twctl.blocking import connect
from twctl.client import Client
from twctl.opening import open_session
from twctl.profile import Profile
from twctl.rejection import ConnectionRejected
from twctl.tls import refusal


PROFILE = Profile("host", 1, Path("CA"), Path("CERT"), Path("KEY"))


def with_reason(reason: str) -> ssl.SSLError:
    """Return the error that OpenSSL gives for an alert."""
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


def unverified(code: int) -> ssl.SSLCertVerificationError:
    """Return the error of a certificate that OpenSSL did not accept."""
    error = ssl.SSLCertVerificationError(1, "failed")
    error.verify_code = code
    error.verify_message = "openssl's words"
    return error


@pytest.mark.parametrize(
    ("error", "words", "cls"),
    [
        (
            with_reason("TLSV13_ALERT_CERTIFICATE_REQUIRED"),
            "requires a client certificate",
            ConnectionRejected,
        ),
        (with_reason("TLSV1_ALERT_UNKNOWN_CA"), "not trust the CA", ConnectionRejected),
        (
            with_reason("SSLV3_ALERT_CERTIFICATE_EXPIRED"),
            "clock differs, or its revocation list (CRL) has expired",
            ConnectionRejected,
        ),
        (
            with_reason("SSLV3_ALERT_CERTIFICATE_REVOKED"),
            "CERT has been revoked",
            ConnectionRejected,
        ),
        (
            with_reason("SSLV3_ALERT_BAD_CERTIFICATE"),
            "not yet valid? check both clocks",
            ConnectionRejected,
        ),
        (
            with_reason("SSLV3_ALERT_UNSUPPORTED_CERTIFICATE"),
            "may not be used by a client",
            ConnectionRejected,
        ),
        (
            with_reason("TLSV1_ALERT_PROTOCOL_VERSION"),
            "needs TLS 1.3",
            ConnectionRejected,
        ),
        (
            with_reason("TLSV1_ALERT_DECRYPT_ERROR"),
            "signature of your certificate CERT wrong",
            ConnectionRejected,
        ),
        (
            with_reason("SSLV3_ALERT_CERTIFICATE_UNKNOWN"),
            "rejected your certificate CERT; its log",
            ConnectionRejected,
        ),
        (
            with_reason("SSLV3_ALERT_HANDSHAKE_FAILURE"),
            "no cipher in common",
            ConnectionRejected,
        ),
        (with_reason("UNSUPPORTED_PROTOCOL"), "offer TLS 1.3", ConnectionRejected),
        (with_reason("WRONG_VERSION_NUMBER"), "does not speak TLS", ConnectionRejected),
        (with_reason("RECORD_LAYER_FAILURE"), "does not speak TLS", ConnectionRejected),
        (
            ssl.SSLError(1, "[SSL] tlsv1 alert no application protocol (_ssl.c:1006)"),
            "does not speak teleworker/1; is it a TeleWorker port?",
            ConnectionRejected,
        ),
        (unverified(62), "not for host host", ConnectionRejected),
        (unverified(64), "not for host host", ConnectionRejected),
        (unverified(19), "not signed by your --ca CA", ConnectionRejected),
        (unverified(20), "not signed by your --ca CA", ConnectionRejected),
        (unverified(10), "server's certificate has expired", ConnectionRejected),
        (unverified(9), "not valid yet", ConnectionRejected),
        (unverified(26), "may not be used by a server", ConnectionRejected),
        (unverified(7), "not signed by your --ca CA", ConnectionRejected),
        (unverified(66), "too weak", ConnectionRejected),
        (unverified(79), "not as RFC 5280 has it (openssl's", ConnectionRejected),
        (unverified(99), "openssl's words", ConnectionRejected),
        (None, "closed the connection during authentication", ConnectionClosed),
        (
            ssl.SSLEOFError(8, "EOF"),
            "closed the connection during authentication",
            ConnectionClosed,
        ),
        (ConnectionResetError(), "connection limit", ConnectionClosed),
        (BrokenPipeError(), "connection limit", ConnectionClosed),
        (ConnectionRefusedError(), "nothing listens there", ConnectionClosed),
        (TimeoutError(), "no response within 10 s", ConnectionClosed),
        (socket.gaierror(-2, "Name unknown"), "resolved (Name unk", ConnectionClosed),
        (OSError(113, "No route to host"), "No route to host", ConnectionClosed),
        (RemoteProtocolError("odd frame"), "odd frame", ConnectionRejected),
        (PermissionDenied("no CN"), "no CN", ConnectionRejected),
        (Unavailable("no time"), "no time", Unavailable),
        (TooMany("too many"), "too many", TooMany),
    ],
)
def test_reasons(
    error: Exception | None, words: str, cls: type[TeleworkerError]
) -> None:
    """Each failure has a sentence with the address; only some may be tried again."""
    refused = refusal(error, PROFILE)

    assert type(refused) is cls
    assert str(refused).startswith("host:1")
    assert words in str(refused)


async def test_nobody_there(certs: Certificates) -> None:
    """Nothing listens: the address and what to look at."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()

    profile = profile_of(address, certs)

    with pytest.raises(ConnectionClosed, match=f"{profile.address}: nothing listens"):
        await open_session(profile, context_of(profile))

    with pytest.raises(ConnectionClosed, match=f"{profile.address}: nothing listens"):
        await asyncio.to_thread(connect, profile)


ROOT = Authority.root(ends=400 * DAY)

SERVERS: dict[str, tuple[Signed, str]] = {
    "other name": (
        ROOT.server(names=[x509.DNSName("elsewhere.invalid")]),
        "is not for host 127.0.0.1 but for elsewhere.invalid;",
    ),
    "no purpose": (ROOT.server(purposes=()), "may not be used by a server"),
    "of a client": (ROOT.server(purposes=CLIENT), "may not be used by a server"),
    "other CA": (Authority.root("Other").server(), "not signed by your --ca"),
}


@pytest.mark.parametrize("name", SERVERS)
async def test_odd_server(server: FakeServer, tmp_path: Path, name: str) -> None:
    """On both loops, a server that is not the right one is refused."""
    signed, words = SERVERS[name]
    certs = directory_of(tmp_path, signed, ROOT)
    ROOT.client(ends=365 * DAY).save(tmp_path, "alice")

    async with await server.listen(certs) as listener:
        profile = profile_of(listener.sockets[0].getsockname(), certs)

        with pytest.raises(ConnectionRejected, match=words):
            await open_session(profile, context_of(profile))

    assert not server.asked


@pytest.mark.parametrize("name", ["revoked", "other CA"])
async def test_refused_by_the_server(tmp_path: Path, name: str) -> None:
    """On both loops, an alert that comes after our handshake is told."""
    certs = directory_of(tmp_path, ROOT.server(), ROOT)
    signer = ROOT if name == "revoked" else Authority.root("Other")
    alice = signer.client(ends=365 * DAY)
    alice.save(tmp_path, "alice")
    crl = tmp_path / "crl.pem"
    crl.write_bytes(ROOT.revoke(alice.certificate))

    with shaking_hands(strict_context(certs, crl=crl)) as address:
        host, _, port = address.rpartition(":")
        profile = profile_of((host, int(port)), certs)

        with pytest.raises(ConnectionRejected, match=r"has been revoked|not trust the"):
            await open_session(profile, context_of(profile))


async def test_other_protocol(server: FakeServer, certs: Certificates) -> None:
    """On both loops, a TLS server that does not choose our protocol is refused."""
    server.alpn = "http/1.1"

    async with await server.listen(certs) as listener:
        profile = profile_of(listener.sockets[0].getsockname(), certs)

        with pytest.raises(ConnectionRejected, match=r"not teleworker/1|not speak"):
            await open_session(profile, context_of(profile))


def test_other_protocol_without_a_loop(server: FakeServer, certs: Certificates) -> None:
    """So it is without a loop."""
    server.alpn = "http/1.1"

    with (
        serving(server, certs) as profile,
        pytest.raises(ConnectionRejected, match=r"not teleworker/1|does not speak"),
    ):
        connect(profile)


async def test_warnings_in_the_library(server: FakeServer, tmp_path: Path) -> None:
    """Whoever wants to know is told once of a certificate that ends soon."""
    certs = directory_of(tmp_path, ROOT.server(), ROOT)
    ROOT.client(ends=2 * DAY).save(tmp_path, "alice")
    warnings: list[str] = []

    async with await server.listen(certs) as listener:
        profile = profile_of(listener.sockets[0].getsockname(), certs)

        async with Client(profile, warn=warnings.append) as client:
            server.drop()
            await client.info()

    assert [text.partition(" expires")[0] for text in warnings] == [
        f"--cert {profile.cert}"
    ]
