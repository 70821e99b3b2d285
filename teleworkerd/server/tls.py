"""Mutual TLS: the server's context, and why a handshake failed."""

import contextvars
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

from teleworkerd.certfiles import (
    CA,
    CERTIFICATE,
    KEY,
    REVOCATIONS,
    CertificateFiles,
)
from teleworkerd.counters import Refusal
from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.messages import ALPN, GROUP
from teleworkerd.server.certificates import CertificateError, RevocationList
from teleworkerd.server.material import (
    RENEW_LIST,
    RENEW_SERVER,
    Material,
    check_material,
    read_material,
)


_NO_CERTIFICATE: Final = "peer did not return a certificate"


_ANEW: Final = "have it made anew, with what gen_certs.sh puts in"
_WHOSE: Final = f"its authority is not in {CA}"

# What is to be done about a code of OpenSSL's, x509_vfy.h.
_HINTS: Final[Mapping[int, str]] = {
    2: f"the authority above its own is not in {CA}",
    7: "it is damaged, or was not made by whom it names",
    9: "a clock is wrong, or it was made for later",
    10: "it needs a new one, or its authority does, or a clock is wrong",
    18: f"it is its own authority, and not in {CA}",
    19: _WHOSE,
    20: f"{_WHOSE}, or the client did not send one that stands between",
    21: f"{_WHOSE}, or the client did not send one that stands between",
    22: "there are too many others above it",
    25: "there are more authorities above it than one of them allows",
    26: "it, or an authority above it, is not for clients (extended key usage)",
    34: "it has a critical extension that nobody here knows",
    66: "its key is too short for anybody to rely on",
    67: "the key of an authority above it is too short for anybody to rely on",
    68: "it is signed with a digest that nobody relies on any more",
    79: "it was made by one that is no authority",
    **dict.fromkeys(range(80, 95), _ANEW),  # what X509_STRICT adds
}

# Those that are about the server's lists, and so about all clients of an authority.
_LIST_HINTS: Final[Mapping[int, str]] = {
    3: "it has no list of that authority: add one, and reload",
    11: "look at the clock",
    12: RENEW_LIST,
    **dict.fromkeys((5, 8, 15, 16, 33, 35, 36, 44, 54), RENEW_LIST),
}

_TLS_HINTS: Final[Mapping[str, str]] = {
    "excessive message size": "; the client's certificates are too large",
    "unsupported protocol": "; the client speaks nothing as new as TLS 1.3",
}


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


def server_context(files: CertificateFiles) -> ssl.SSLContext:
    """Return the context for what *files* hold; raises `TlsError`."""
    try:
        material = read_material(files)
        check_material(material, time.time())
        return _context_of(files, material)
    except CertificateError as error:
        raise TlsError(str(error)) from error
    except OSError as error:
        raise TlsError(
            f"the certificates cannot be given to OpenSSL: {error.strerror}"
        ) from error


def describe(error: BaseException) -> str:
    """Return in a few words why a handshake failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _describe_verdict(error)

    if isinstance(error, ssl.SSLError):
        reason = _reason(error)

        if reason == _NO_CERTIFICATE:
            return "the client sent no certificate"

        hint = _TLS_HINTS.get(reason, "")

        # An alert is what the other side says.
        if " alert " in reason and ("certificate" in reason or "unknown ca" in reason):
            hint = f"; the client does not take the server's certificate, {CERTIFICATE}"

        return f"no TLS handshake: {reason}{hint}"

    if isinstance(error, (ConnectionError, TimeoutError)):
        why = f": {error}" if str(error) else ""
        return f"the client went away during the handshake{why}"

    return str(error) or type(error).__name__


def classify(error: BaseException) -> Refusal:
    """Return what kind of failure of a handshake *error* is."""
    if isinstance(error, ssl.SSLCertVerificationError):
        is_ours = error.verify_code in _LIST_HINTS
        return Refusal.REVOCATION_LIST if is_ours else Refusal.CERTIFICATE

    if isinstance(error, ssl.SSLError):
        is_missing = _reason(error) == _NO_CERTIFICATE
        return Refusal.CERTIFICATE if is_missing else Refusal.TLS

    return Refusal.GONE


def _context_of(files: CertificateFiles, material: Material) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Of the groups that OpenSSL offers besides, some cost a stranger nothing and us
    # a hundred times as much.
    context.set_ecdh_curve(GROUP)
    # A session resumed by a ticket would skip the revocation list.
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols([ALPN])
    context.sslobject_class = AlertingSSLObject
    _load_key(context, files)
    _load_authorities(context, material)

    if material.lists is not None:
        _load_lists(context, material.lists, material.lists_path)

    _check_as_client(context, material)
    return context


def _describe_verdict(error: ssl.SSLCertVerificationError) -> str:
    code, message = error.verify_code, error.verify_message

    # These are no fault of the client's, and nobody else of its authority gets in.
    if hint := _LIST_HINTS.get(code):
        return (
            f"the server's own revocation list (CRL), {REVOCATIONS}, keeps everybody of"
            f" the client's authority out: {message}; {hint}"
        )

    hint = _HINTS.get(code, "")
    return f"client certificate refused: {message}{hint and '; '}{hint}"


def _reason(error: ssl.SSLError) -> str:
    # One that Python itself has made has no reason.
    reason = getattr(error, "reason", None) or str(error)
    return reason.replace("_", " ").lower()


def _load_key(context: ssl.SSLContext, files: CertificateFiles) -> None:
    certificate, key = files.path(CERTIFICATE), files.path(KEY)

    def no_prompt() -> str:
        raise TlsError(
            f"{key} is encrypted, and a daemon needs a key without a passphrase;"
            f" 'openssl pkey -in {key} -out NEW' writes one"
        )

    try:
        with _as_file(files.certificate) as first, _as_file(files.key) as second:
            context.load_cert_chain(first, second, password=no_prompt)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(
                f"{key} is not the key of {certificate}; {RENEW_SERVER}"
            ) from error

        raise TlsError(
            f"{certificate} and {key} cannot be used: {error.reason or error}"
        ) from error


def _load_authorities(context: ssl.SSLContext, material: Material) -> None:
    # What has been looked at and nothing else: in a file, OpenSSL finds more.
    try:
        context.load_verify_locations(
            cadata=b"".join(each.der for each in material.authorities)
        )
    except ssl.SSLError as error:
        raise TlsError(
            f"{material.ca_path} cannot be used: {error.reason or error}"
        ) from error


def _load_lists(
    context: ssl.SSLContext, lists: Sequence[RevocationList], path: Path
) -> None:
    try:
        with _as_file(b"".join(each.pem for each in lists)) as name:
            context.load_verify_locations(cafile=name)
    except ssl.SSLError as error:
        raise TlsError(f"{path} cannot be used: {error.reason or error}") from error

    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _check_as_client(context: ssl.SSLContext, material: Material) -> None:
    """Look at the server's certificate as every client will."""
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    client_context.set_ecdh_curve(GROUP)
    client_context.check_hostname = False  # which of its names they use is theirs
    _load_authorities(client_context, material)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = context.wrap_bio(to_server, to_client, server_side=True)

    try:
        for side in (client, server, client):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        raise TlsError(
            f"{material.server_path} would be refused by clients that trust"
            f" {material.ca_path}: {error.verify_message}; {RENEW_SERVER}"
        ) from error


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Give *content* a name, for as long as OpenSSL needs one; nobody else sees it."""
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)

    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)

        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
