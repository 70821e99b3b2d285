"""TLS as the client speaks it, and in plain words why a handshake failed."""

import socket
import ssl
import time
from pathlib import Path
from typing import Final, NoReturn

from teleworkerd.protocol.errors import (
    ConnectionClosed,
    ProtocolError,
    RequestError,
    TeleworkerError,
    Unavailable,
)
from teleworkerd.protocol.messages import ALPN
from twctl.certificate import format_moment, read_validity
from twctl.conduct import CONNECT_TIMEOUT
from twctl.profile import Profile, ProfileError


_X509: Final[dict[int, str]] = {
    9: "the server's certificate is not valid yet (check both clocks)",
    10: "the server's certificate has expired",
    26: "the server's certificate may not be used by a server (extended key usage)",
}
_UNTRUSTED: Final = frozenset({2, 18, 19, 20, 21})
_OTHER_HOST: Final = frozenset({62, 64})

# What a server that refuses us says by an alert; the first that fits counts.
_ALERTS: Final[tuple[tuple[str, str], ...]] = (
    (
        "CERTIFICATE_REQUIRED",
        "the server requires a client certificate; none was sent (check --cert/--key)",
    ),
    ("UNKNOWN_CA", "the server does not trust the CA of your certificate {cert}"),
    (
        "CERTIFICATE_EXPIRED",
        "your certificate {cert} (ends {end}) or the server's CRL has expired",
    ),
    ("CERTIFICATE_REVOKED", "your certificate {cert} has been revoked"),
    (
        "BAD_CERTIFICATE",
        "the server rejected your certificate {cert} (not yet valid? check the clocks)",
    ),
    (
        "UNSUPPORTED_CERTIFICATE",
        "your certificate {cert} may not be used by a client (extended key usage)",
    ),
    (
        "CERTIFICATE_UNKNOWN",
        "the server rejected your certificate {cert}; its log has the reason",
    ),
    ("PROTOCOL_VERSION", "no common TLS version; the server needs TLS 1.3"),
    (
        "NO_APPLICATION_PROTOCOL",
        f"the server does not speak {ALPN}; is it a TeleWorker port?",
    ),
    ("WRONG_VERSION_NUMBER", "the server does not speak TLS; is it a TeleWorker port?"),
)

_CLOSED: Final = (
    "the server closed the connection during authentication: rejected certificate,"
    " connection limit, or not a TeleWorker port; the server's log has the reason"
)

HANGING_UP: Final = (
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
    ConnectionResetError,
    BrokenPipeError,
    ConnectionAbortedError,
)

_SAID: Final[tuple[tuple[tuple[type[OSError], ...], str], ...]] = (
    (HANGING_UP, _CLOSED),
    ((ConnectionRefusedError,), "nothing listens there; is teleworkerd running?"),
    (
        (TimeoutError,),
        f"no response within {CONNECT_TIMEOUT:.0f} s; is the address right?",
    ),
)


class ConnectionRejected(ConnectionClosed):
    """One side refused the other; trying again changes nothing."""


def client_context(profile: Profile) -> ssl.SSLContext:
    """Return how to speak TLS with the server of *profile*.

    Raises `ProfileError` when a file is missing, unreadable, out of date or does
    not fit the others.
    """
    for flag, path in (
        ("--ca", profile.ca),
        ("--cert", profile.cert),
        ("--key", profile.key),
    ):
        _check_readable(flag, path)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.hostname_checks_common_name = False
    context.set_alpn_protocols([ALPN])

    try:
        context.load_verify_locations(cafile=profile.ca)
    except ssl.SSLError as error:
        raise ProfileError(f"--ca {profile.ca} holds no PEM certificate") from error

    _check_dates(profile.cert)
    _load_pair(context, profile)
    return context


def check_alpn(chosen: str | None, profile: Profile) -> None:
    """Raise `ConnectionRejected` unless the server chose our protocol."""
    if chosen != ALPN:
        raise ConnectionRejected(
            f"{profile.address} speaks TLS but not {ALPN}; is it a TeleWorker port?"
        )


def refusal(error: BaseException | None, profile: Profile) -> TeleworkerError:
    """Return what to raise for *error*, which came before the server's hello.

    None stands for a connection that the server just closed.
    """
    match error:
        case Unavailable():
            return Unavailable(f"{profile.address}: {error}", error.details)
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


def _failed(error: BaseException | None, profile: Profile) -> ConnectionClosed:
    reason: str = getattr(error, "reason", None) or ""  # SSLError may lack it

    for alert, text in _ALERTS:
        if alert in reason:
            end = _end_of(profile.cert) if "{end}" in text else ""
            said = text.format(cert=profile.cert, end=end)
            return ConnectionRejected(f"{profile.address}: {said}")

    return ConnectionClosed(f"{profile.address}: {_unreachable(error)}")


def _unreachable(error: BaseException | None) -> str:
    match error:
        case None:
            return _CLOSED
        case socket.gaierror():
            return f"the host name cannot be resolved ({error.strerror})"
        case ssl.SSLError() if not isinstance(error, HANGING_UP):
            return f"TLS failed ({error.reason or error})"
        case OSError():
            known = (text for kinds, text in _SAID if isinstance(error, kinds))
            return next(known, error.strerror or str(error))
        case _:
            return str(error)


def _untrusted(error: ssl.SSLCertVerificationError, profile: Profile) -> str:
    code = error.verify_code

    if code in _OTHER_HOST:
        return (
            f"the server's certificate is not for host {profile.host};"
            " connect by a name that it has, or make it one with this name"
        )

    if code in _UNTRUSTED:
        return (
            "the server's certificate is not signed by your --ca file"
            f" {profile.ca} ({error.verify_message})"
        )

    return _X509.get(code, f"the server's certificate fails: {error.verify_message}")


def _check_readable(flag: str, path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise ProfileError(f"{flag} {path} cannot be read: {error.strerror}") from error


def _load_pair(context: ssl.SSLContext, profile: Profile) -> None:
    try:
        context.load_cert_chain(profile.cert, profile.key, password=_no_prompt)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ProfileError(
                f"--key {profile.key} is not the key of --cert {profile.cert}"
            ) from error

        raise ProfileError(
            f"--cert {profile.cert} and --key {profile.key} are not a certificate"
            f" and a key in PEM ({error.reason or error})"
        ) from error
    except _EncryptedKey as error:
        raise ProfileError(
            f"--key {profile.key} is encrypted, which twctl cannot ask for;"
            " decrypt it with 'openssl pkey'"
        ) from error


class _EncryptedKey(Exception):
    """OpenSSL would have asked for a password on the terminal."""


def _no_prompt() -> NoReturn:
    raise _EncryptedKey


def _check_dates(cert: Path) -> None:
    now = time.time()

    try:
        begin, end = read_validity(_first_der(cert))
    except ValueError:
        return  # load_cert_chain knows better what is wrong with it

    if now > end:
        raise ProfileError(
            f"--cert {cert} expired at {format_moment(end)};"
            " get a new one (or set this machine's clock right)"
        )

    if now < begin:
        raise ProfileError(
            f"--cert {cert} is not valid yet, only from"
            f" {format_moment(begin)} on; is this machine's clock right?"
        )


def _end_of(cert: Path) -> str:
    try:
        return format_moment(read_validity(_first_der(cert))[1])
    except (OSError, ValueError):
        return "an unknown time"


def _first_der(cert: Path) -> bytes:
    pem = cert.read_text(encoding="ascii", errors="replace")
    begin, end = pem.find(ssl.PEM_HEADER), pem.find(ssl.PEM_FOOTER)

    if not 0 <= begin < end:
        raise ValueError(f"{cert} holds no PEM certificate")

    return ssl.PEM_cert_to_DER_cert(pem[begin : end + len(ssl.PEM_FOOTER)])
