"""What a user reads when the two sides do not accept each other."""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from teleworkerd.protocol.errors import (
    ConnectionClosed,
    PermissionDenied,
    RemoteProtocolError,
    TeleworkerError,
    Unavailable,
)
from tests.e2e.pki import DAY, Certificates, Identity, Purpose, generate, issue
from tests.twctl.fake import FakeServer, profile_of, serving
from twctl.blocking import BlockingSession
from twctl.certificate import read_validity
from twctl.opening import open_session
from twctl.profile import Profile, ProfileError
from twctl.tls import ConnectionRejected, client_context, refusal


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


def using(profile: Profile, identity: Identity) -> Profile:
    """Return *profile* with another certificate."""
    return Profile(profile.host, profile.port, profile.ca, identity.cert, identity.key)


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
            "CERT (ends an unknown time) or the server's CRL has expired",
            ConnectionRejected,
        ),
        (
            with_reason("SSLV3_ALERT_CERTIFICATE_REVOKED"),
            "CERT has been revoked",
            ConnectionRejected,
        ),
        (
            with_reason("SSLV3_ALERT_BAD_CERTIFICATE"),
            "not yet valid? check the clocks",
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
        (with_reason("WRONG_VERSION_NUMBER"), "does not speak TLS", ConnectionRejected),
        (unverified(62), "not for host host", ConnectionRejected),
        (unverified(64), "not for host host", ConnectionRejected),
        (unverified(19), "not signed by your --ca file CA", ConnectionRejected),
        (unverified(20), "not signed by your --ca file CA", ConnectionRejected),
        (unverified(10), "server's certificate has expired", ConnectionRejected),
        (unverified(9), "not valid yet", ConnectionRejected),
        (unverified(26), "may not be used by a server", ConnectionRejected),
        (unverified(79), "openssl's words", ConnectionRejected),
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
        (Unavailable("too many"), "too many", Unavailable),
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


Break = Callable[[Profile, Path], Profile]


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("ca", "--ca /none cannot be read: No such file"),
        ("cert", "--cert"),
        ("key", "--key"),
    ],
)
def test_missing_file(certs: Certificates, flag: str, words: str) -> None:
    """A file that is not there is named, with its flag."""
    good = profile_of(("h", 1), certs)
    files = {"ca": good.ca, "cert": good.cert, "key": good.key, flag: Path("/none")}

    with pytest.raises(ProfileError, match=words):
        client_context(Profile("h", 1, **files))


def test_key_of_another(certs: Certificates) -> None:
    """Key and certificate have to belong together."""
    mixed = Identity(certs.of("alice").cert, certs.of("bob").key)

    with pytest.raises(ProfileError, match="is not the key of"):
        client_context(using(profile_of(("h", 1), certs), mixed))


def test_encrypted_key(certs: Certificates, tmp_path: Path) -> None:
    """An encrypted key is refused; nothing asks on the terminal."""
    key = tmp_path / "key.pem"
    os.system(
        f"openssl pkey -in {certs.of('alice').key} -aes256 -passout pass:x -out {key}"
    )

    with pytest.raises(ProfileError, match="is encrypted"):
        client_context(
            using(profile_of(("h", 1), certs), Identity(certs.of("alice").cert, key))
        )


@pytest.mark.parametrize("text", ["", "no certificate", "-----BEGIN CERTIFICATE-----"])
def test_no_certificate(certs: Certificates, tmp_path: Path, text: str) -> None:
    """Files that hold something else are told as that."""
    odd = tmp_path / "odd.pem"
    odd.write_text(text)
    good = profile_of(("h", 1), certs)

    with pytest.raises(ProfileError, match=r"odd\.pem.*PEM"):
        client_context(using(good, Identity(odd, good.key)))

    with pytest.raises(ProfileError, match=r"odd\.pem.*PEM"):
        client_context(Profile("h", 1, odd, good.cert, good.key))


@pytest.mark.parametrize(
    ("begins", "ends", "words"),
    [(-2, -1, "expired at 20"), (1, 2, "not valid yet, only from 20")],
)
def test_dates(
    certs: Certificates, tmp_path: Path, begins: int, ends: int, words: str
) -> None:
    """A certificate out of its dates is refused here, with the date."""
    odd = issue(certs, "/CN=alice", into=tmp_path, begins=begins * DAY, ends=ends * DAY)

    with pytest.raises(ProfileError, match=words):
        client_context(using(profile_of(("h", 1), certs), odd))


def test_validity(certs: Certificates) -> None:
    """The dates read are those that OpenSSL shows for a CA."""
    context = ssl.create_default_context(cafile=str(certs.ca))
    (shown,) = context.get_ca_certs()
    (der,) = context.get_ca_certs(binary_form=True)
    expected = [
        ssl.cert_time_to_seconds(str(shown[k])) for k in ("notBefore", "notAfter")
    ]

    assert list(read_validity(der)) == expected


@pytest.mark.parametrize("size", [0, 1, 3, 40, 90])
def test_validity_of_a_stump(certs: Certificates, size: int) -> None:
    """A certificate that is cut off is a ValueError, wherever the cut is."""
    context = ssl.create_default_context(cafile=str(certs.ca))
    (der,) = context.get_ca_certs(binary_form=True)

    with pytest.raises(ValueError, match="cut off"):
        read_validity(der[:size])


REFUSED: dict[str, tuple[Callable[[Certificates, Path], Identity], str]] = {
    "other CA": (
        lambda certs, into: generate(into / "other", "alice").of("alice"),
        "does not trust the CA|during authentication",
    ),
    "of a server": (
        lambda certs, into: certs.of("server"),
        "may not be used by a client|during authentication",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refused_session(
    profile: Profile, certs: Certificates, tmp_path: Path, name: str
) -> None:
    """A refused client is told on both event loops, though its handshake went well."""
    make, words = REFUSED[name]
    odd = using(profile, make(certs, tmp_path))

    with pytest.raises(ConnectionClosed, match=words):
        await open_session(odd, client_context(odd))


@pytest.mark.parametrize("purpose", [Purpose.SERVER_ELSEWHERE, Purpose.CLIENT])
def test_impostor(
    server: FakeServer, certs: Certificates, tmp_path: Path, purpose: Purpose
) -> None:
    """A server without the right name or purpose is refused by the client."""
    issue(certs, "/CN=x", into=tmp_path / "odd", purpose=purpose)
    odd = Certificates(tmp_path)
    (tmp_path / "odd" / "odd.pem").rename(tmp_path / "server.pem")
    (tmp_path / "odd" / "odd-key.pem").rename(tmp_path / "server-key.pem")
    (tmp_path / "ca.pem").write_bytes(certs.ca.read_bytes())

    with (
        serving(server, odd, certs) as profile,
        pytest.raises(ConnectionRejected, match="server's certificate"),
    ):
        BlockingSession(profile)


def test_other_authority(
    server: FakeServer, certs: Certificates, tmp_path: Path
) -> None:
    """A server whose CA is not ours is refused, and our --ca file named."""
    other = generate(tmp_path / "other", "alice")

    with serving(server, certs) as profile:
        odd = Profile(profile.host, profile.port, other.ca, profile.cert, profile.key)

        with pytest.raises(ConnectionRejected, match="not signed by your --ca"):
            BlockingSession(odd)


def test_other_protocol(server: FakeServer, certs: Certificates) -> None:
    """A TLS server that does not choose our protocol is not one of ours."""
    server.alpn = "http/1.1"

    with (
        serving(server, certs) as profile,
        pytest.raises(ConnectionRejected, match=r"not teleworker/1|does not speak"),
    ):
        BlockingSession(profile)


async def test_nobody_there(certs: Certificates) -> None:
    """Nothing listens: the address and what to look at."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()

    profile = profile_of(address, certs)

    with pytest.raises(ConnectionClosed, match=f"{profile.address}: nothing listens"):
        await open_session(profile, client_context(profile))

    with pytest.raises(ConnectionClosed, match=f"{profile.address}: nothing listens"):
        await asyncio.to_thread(BlockingSession, profile)
