"""TLS as the client speaks it, and in plain words why a handshake failed."""

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

from teleworkerd.protocol.errors import (
    ConnectionClosed,
    PermissionDenied,
    ProtocolError,
    RequestError,
    TeleworkerError,
    TooMany,
    Unavailable,
)
from teleworkerd.protocol.messages import ALPN, GROUP
from twctl.certificate import SERVER_AUTH, Certificate, format_moment, read_certificate
from twctl.conduct import CONNECT_TIMEOUT, HELLO_TIMEOUT
from twctl.credentials import (
    Credentials,
    PemFile,
    read_end,
    refuse_damaged,
    refuse_encrypted,
)
from twctl.profile import Profile, ProfileError
from twctl.rejection import AccessWithdrawn, ConnectionRejected


LOOK_TIMEOUT: Final = 3.0  # seconds, twice; the server has just answered

_NO_SERVER: Final = (
    "the server's certificate may not be used by a server; its operator must have one"
    " made that has serverAuth in its extended key usage"
)
_X509: Final[dict[int, str]] = {
    9: "the server's certificate is not valid yet (check both clocks)",
    10: "the server's certificate has expired; its operator must renew it"
    " (or this machine's clock is wrong)",
    26: _NO_SERVER,
}
_UNTRUSTED: Final = frozenset({2, 7, 18, 19, 20, 21})
_OTHER_HOST: Final = frozenset({62, 64})
_NOT_STRICT: Final = range(79, 95)  # what RFC 5280 wants, and VERIFY_X509_STRICT
_WEAK: Final = frozenset({66, 67, 68})

_NO_TLS: Final = "the server does not speak TLS; is it a TeleWorker port?"
_NO_VERSION: Final = "no common TLS version; the server must offer TLS 1.3"

# What a server that refuses us says by an alert; the first that fits counts.
_ALERTS: Final[dict[str, str]] = {
    "CERTIFICATE_REQUIRED": (
        "the server requires a client certificate; none was sent (check --cert/--key)"
    ),
    "UNKNOWN_CA": (
        "the server does not trust the CA of your certificate {cert};"
        " use one that its own CA has signed"
    ),
    "CERTIFICATE_EXPIRED": (
        "the server says that your certificate {cert} has expired, but by this"
        " machine's clock it is valid until {end}: the server's clock differs, or its"
        " revocation list (CRL) has expired and its operator must renew that"
    ),
    "CERTIFICATE_REVOKED": (
        "your certificate {cert} has been revoked; have a new one made"
    ),
    "BAD_CERTIFICATE": (
        "the server rejected your certificate {cert}"
        " (not yet valid? check both clocks); its log has the reason"
    ),
    "UNSUPPORTED_CERTIFICATE": (
        "your certificate {cert} may not be used by a client (extended key usage);"
        " have one made with clientAuth"
    ),
    "CERTIFICATE_UNKNOWN": (
        "the server rejected your certificate {cert}; its log has the reason"
    ),
    "DECRYPT_ERROR": (
        "the server finds the signature of your certificate {cert} wrong: it is"
        " damaged, or signed by another CA of the same name; have a new one made"
    ),
    "PROTOCOL_VERSION": "no common TLS version; the server needs TLS 1.3",
    "UNSUPPORTED_PROTOCOL": _NO_VERSION,
    "WRONG_SSL_VERSION": _NO_VERSION,
    "HANDSHAKE_FAILURE": "the server has no cipher in common with this client",
    "NO_APPLICATION_PROTOCOL": (
        f"the server does not speak {ALPN}; is it a TeleWorker port?"
    ),
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "PACKET_LENGTH_TOO_LONG": _NO_TLS,
}

_CLOSED: Final = (
    "the server closed the connection during authentication: rejected certificate,"
    " connection limit, or not a TeleWorker port; the server's log has the reason"
)

_HANGING_UP: Final = (
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
    ConnectionResetError,
    BrokenPipeError,
    ConnectionAbortedError,
)

_SAID: Final[tuple[tuple[tuple[type[OSError], ...], str], ...]] = (
    (_HANGING_UP, _CLOSED),
    ((ConnectionRefusedError,), "nothing listens there; is teleworkerd running?"),
    (
        (TimeoutError,),
        f"no response within {CONNECT_TIMEOUT:.0f} s; is the address right?",
    ),
)

_NO_PAIR: Final = frozenset({"KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED"})
_TOO_WEAK: Final = frozenset({"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"})


def client_context(credentials: Credentials) -> ssl.SSLContext:
    """Return how to speak TLS as the bearer of *credentials*.

    Raises `ProfileError` when the files cannot be used, or do not fit each other.
    """
    context = _context_that_trusts(credentials.ca)
    _load_pair(context, credentials)
    return context


def check_server(alpn: str | None, der: bytes | None, profile: Profile) -> None:
    """Raise `ConnectionRejected` unless the server may be one, and is one of ours.

    *alpn* is the protocol that it chose, *der* its certificate. OpenSSL takes one
    that does not say what it is for.
    """
    if alpn != ALPN:
        raise ConnectionRejected(
            f"{profile.address} speaks TLS but not {ALPN}; is it a TeleWorker port?"
        )

    certificate = _parse(der)

    if certificate is None or SERVER_AUTH not in certificate.purposes:
        raise ConnectionRejected(f"{profile.address}: {_NO_SERVER}")


def refusal(error: BaseException | None, profile: Profile) -> TeleworkerError:
    """Return what to raise for *error*, which came before the server's hello.

    None stands for a connection that the server just closed. Where the server's
    certificate has another name, this connects once more to see which, and may take
    some seconds.
    """
    match error:
        case Unavailable() | TooMany():
            return type(error)(f"{profile.address}: {error}", error.details)
        case RequestError():
            return ConnectionRejected(f"{profile.address}: {error}")
        case ProtocolError():
            return ConnectionRejected(
                f"{profile.address} breaks the protocol ({error});"
                " is it a TeleWorker port?"
            )
        case ssl.SSLCertVerificationError():
            return ConnectionRejected(
                f"{profile.address}: {_untrusted(error, profile)}"
            )
        case _:
            return _failed(error, profile)


def silence(profile: Profile) -> ConnectionClosed:
    """Return what to raise when a server that was connected to says no hello."""
    return ConnectionClosed(
        f"{profile.address}: connected, but no word from the server within"
        f" {HELLO_TIMEOUT:.0f} s"
    )


def is_cut_off(error: ConnectionClosed) -> bool:
    """Whether *error*, which came before the hello, may pass if one tries again.

    protocol.md, "Transport", tells when that is so.
    """
    if isinstance(error, ConnectionRejected):
        return False

    cause = error.__cause__
    return cause is None or isinstance(cause, (*_HANGING_UP, ConnectionClosed))


def dismissal(error: RequestError, address: str) -> TeleworkerError:
    """Return what to raise for *error*, by which *address* ended the connection.

    It had said hello before.
    """
    if isinstance(error, Unavailable | TooMany):
        return type(error)(f"{address}: {error}", error.details)

    cls = AccessWithdrawn if isinstance(error, PermissionDenied) else ConnectionRejected
    return cls(f"{address}: {error}")


def _failed(error: BaseException | None, profile: Profile) -> ConnectionClosed:
    reason = _reason(error)

    for alert, text in _ALERTS.items():
        if alert in reason:
            end = _end_of(profile) if "{end}" in text else ""
            said = text.format(cert=profile.cert, end=end)
            return ConnectionRejected(f"{profile.address}: {said}")

    return ConnectionClosed(f"{profile.address}: {_unreachable(error)}")


def _reason(error: BaseException | None) -> str:
    """Return OpenSSL's name for it; Python does not know each."""
    if not isinstance(error, ssl.SSLError):
        return ""

    reason: str | None = getattr(error, "reason", None)
    return reason or str(error).upper().replace(" ", "_")


def _unreachable(error: BaseException | None) -> str:
    match error:
        case None:
            return _CLOSED
        case socket.gaierror():
            return f"the host name cannot be resolved ({error.strerror})"
        case ssl.SSLError() if not isinstance(error, _HANGING_UP):
            return f"TLS failed ({error.reason or error})"
        case OSError():
            known = (text for kinds, text in _SAID if isinstance(error, kinds))
            return next(known, error.strerror or str(error))
        case _:
            return str(error)


def _untrusted(error: ssl.SSLCertVerificationError, profile: Profile) -> str:
    code, ca = error.verify_code, profile.file("ca")

    if code in _OTHER_HOST:
        return (
            f"the server's certificate is not for host {profile.host}"
            f"{_other_names(profile)};"
            " connect by a name that it has, or make it one with this name"
        )

    if code in _UNTRUSTED:
        return (
            f"the server's certificate is not signed by your {ca};"
            " ask its operator for the CA certificate that has signed it"
        )

    if code in _WEAK:
        return (
            f"the key or signature of the server's certificate, or of {ca}, is too"
            " weak; have it made by gen_certs.sh"
        )

    if code in _NOT_STRICT:
        return (
            f"the server's certificate, or {ca}, is not as RFC 5280 has it"
            f" ({error.verify_message}); have it made by gen_certs.sh"
        )

    return _X509.get(code, f"the server's certificate fails: {error.verify_message}")


def _other_names(profile: Profile) -> str:
    """Return, as a part of a sentence, for whom the server's certificate is."""
    certificate = _parse(_look(profile))

    if certificate is None:
        return ""

    names = ", ".join(certificate.names)
    return f" but for {names}" if names else " nor for any (subjectAltName)"


def _look(profile: Profile) -> bytes | None:
    """Return the server's certificate, if the CA has signed it, whatever its name.

    OpenSSL shows none that it has refused. The server is not told who asks.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False

    try:
        context.load_verify_locations(cafile=profile.ca)
        address = (profile.host, profile.port)

        with (
            socket.create_connection(address, timeout=LOOK_TIMEOUT) as raw,
            context.wrap_socket(raw, server_hostname=profile.host) as tls,
        ):
            return tls.getpeercert(binary_form=True)
    except (OSError, ValueError):
        return None


def _parse(der: bytes | None) -> Certificate | None:
    try:
        return None if der is None else read_certificate(der)
    except ValueError:
        return None


def _end_of(profile: Profile) -> str:
    end = read_end(profile.cert)
    return "an unknown time" if end is None else format_moment(end)


def _context_that_trusts(ca: PemFile) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.hostname_checks_common_name = False
    # The server takes no other: to begin with one costs a round trip.
    context.set_ecdh_curve(GROUP)
    context.set_alpn_protocols([ALPN])

    try:
        with _as_path(ca.data) as path:
            context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        refuse_damaged(ca)

    return context


def _load_pair(context: ssl.SSLContext, credentials: Credentials) -> None:
    cert, key = credentials.cert, credentials.key

    try:
        with _as_path(cert.data) as cert_path, _as_path(key.data) as key_path:
            context.load_cert_chain(cert_path, key_path, password=_no_prompt)
    except _EncryptedKey:
        refuse_encrypted(key)
    except ssl.SSLError as error:
        if error.reason in _NO_PAIR:
            raise ProfileError(
                f"{key} is not the key of {cert}; give the two that were made together"
            ) from error

        if error.reason in _TOO_WEAK:
            raise ProfileError(
                f"{cert} has a key or signature that is too weak; have a new one made"
            ) from error

        refuse_damaged(key if _is_usable(cert) else cert)


def _is_usable(cert: PemFile) -> bool:
    """Whether all certificates in *cert* are good, so that the key is to blame."""
    try:
        with _as_path(cert.data) as path:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return False

    return True


@contextmanager
def _as_path(data: bytes) -> Iterator[str]:
    """Give *data*, which has been looked at, a path: `ssl` opens its files itself."""
    with os.fdopen(os.memfd_create("twctl"), "wb", buffering=0) as file:
        file.write(data)
        yield f"/proc/self/fd/{file.fileno()}"


class _EncryptedKey(Exception):
    """OpenSSL would have asked for a password on the terminal."""


def _no_prompt() -> NoReturn:
    raise _EncryptedKey
