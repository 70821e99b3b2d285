"""Mutual TLS: the server's context, and why a handshake failed."""

import contextvars
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

from teleworkerd.counters import Refusal
from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.messages import ALPN


CA: Final = "ca.pem"
CERTIFICATE: Final = "server.pem"
KEY: Final = "server-key.pem"
REVOCATIONS: Final = "crl.pem"

_NO_CERTIFICATE: Final = "peer did not return a certificate"


class TlsError(TeleworkerError):
    """A certificate file cannot be used; the message names it and says why."""


# Who wants to know that the handshake that this task does has failed.
handshake_failed: contextvars.ContextVar[Callable[[ssl.SSLError], None] | None] = (
    contextvars.ContextVar("handshake_failed", default=None)
)


class AlertingSSLObject(ssl.SSLObject):
    """Lets the alert of a failed handshake reach the peer.

    The loops close the transport as soon as `do_handshake` raises, and OpenSSL's
    alert is never sent. So the failure goes to `handshake_failed`, and the loop is
    told that more data is needed: it flushes the alert and waits, until the peer
    closes or whoever was told gives up.
    """

    _failed = False
    _tell: Callable[[ssl.SSLError], None] | None = None

    @classmethod
    def _create(cls, *args: Any, **kwargs: Any) -> Self:
        created: Self = super()._create(*args, **kwargs)  # type: ignore[misc]  # private in ssl
        created._tell = handshake_failed.get()
        return created

    def do_handshake(self) -> None:
        """Go on with the handshake."""
        if self._failed:
            raise ssl.SSLWantReadError

        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self._failed = True

            if self._tell is not None:
                self._tell(error)

            raise ssl.SSLWantReadError from None


def server_context(certs: Path) -> ssl.SSLContext:
    """Return the context for the files in *certs*; raises `TlsError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # A session resumed by a ticket would skip the revocation list.
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols([ALPN])
    context.sslobject_class = AlertingSSLObject
    _load_key(context, certs / CERTIFICATE, certs / KEY)
    _load_trusted(context, certs / CA)

    if (certs / REVOCATIONS).exists():
        _load_trusted(context, certs / REVOCATIONS)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF

    _check_as_client(context, certs)
    return context


def describe(error: BaseException) -> str:
    """Return in a few words why a handshake failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"client certificate refused: {error.verify_message}"

    if isinstance(error, ssl.SSLError):
        reason = _reason(error)

        if reason == _NO_CERTIFICATE:
            return "the client sent no certificate"

        return f"no TLS handshake: {reason}"

    if isinstance(error, (ConnectionError, TimeoutError)):
        why = f": {error}" if str(error) else ""
        return f"the client went away during the handshake{why}"

    return str(error) or type(error).__name__


def classify(error: BaseException) -> Refusal:
    """Return what kind of failure of a handshake *error* is."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refusal.CERTIFICATE

    if isinstance(error, ssl.SSLError):
        is_missing = _reason(error) == _NO_CERTIFICATE
        return Refusal.CERTIFICATE if is_missing else Refusal.TLS

    return Refusal.GONE


def _reason(error: ssl.SSLError) -> str:
    # One that Python itself has made has no reason.
    reason = getattr(error, "reason", None) or str(error)
    return reason.replace("_", " ").lower()


def _load_key(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    for path in (certificate, key):
        _check_readable(path)

    try:
        context.load_cert_chain(certificate, key, password=_no_prompt)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(f"{key} is not the key of {certificate}") from error

        raise TlsError(
            f"{certificate} and {key} cannot be used: {error.reason or error}"
        ) from error


def _load_trusted(context: ssl.SSLContext, path: Path) -> None:
    _check_readable(path)

    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise TlsError(f"{path} cannot be used: {error.reason or error}") from error


def _check_as_client(context: ssl.SSLContext, certs: Path) -> None:
    """Look at the server's certificate as every client will."""
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    client_context.check_hostname = False  # which of its names they use is theirs
    client_context.load_verify_locations(cafile=certs / CA)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = context.wrap_bio(to_server, to_client, server_side=True)

    try:
        for side in (client, server, client):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        raise TlsError(
            f"{certs / CERTIFICATE} would be refused by clients that trust"
            f" {certs / CA}: {error.verify_message}"
        ) from error


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise TlsError(
            f"{path} does not exist; make it with gen_certs.sh, or give another"
            " directory with --certs"
        ) from None
    except OSError as error:
        raise TlsError(f"{path} cannot be read: {error.strerror}") from error


def _no_prompt() -> str:
    raise TlsError("the key is encrypted; a daemon needs one without a passphrase")
