"""Who a client is, by its certificate."""

import _ssl  # for what `ssl` does not have before Python 3.13
import re
import ssl
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from teleworkerd.protocol.errors import PermissionDenied
from teleworkerd.server.certificates import (
    CLIENT_AUTH,
    Certificate,
    CertificateError,
)


_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_SERIAL: Final = 20  # bytes (RFC 5280, 4.1.2.2)
_LONGEST: Final = 10  # certificates from a client's own to its root


@dataclass(frozen=True, slots=True)
class Principal:
    """The authenticated name, and what vouched for it.

    `serial` is the certificate's number in hex, `chain` the certificates as DER from
    the client's own to the trusted one. `expires_at` is the last second since the
    epoch at which all of them are valid.
    """

    name: str
    serial: str = ""
    expires_at: float = float("inf")
    chain: tuple[bytes, ...] = ()


def authenticate(tls: ssl.SSLObject) -> Principal:
    """Return who is at the other end of *tls*, whose handshake is done.

    Exactly one CN of harmless characters is taken, in a certificate that says that it
    is for a client; anything else raises `PermissionDenied`.
    """
    name = name_in(tls.getpeercert())
    chain = verified_chain(tls)

    if len(chain) > _LONGEST:
        raise PermissionDenied(
            f"the certificate has {len(chain) - 1} others above it, and more than"
            f" {_LONGEST - 1} are not taken; have it made by an authority further up"
        )

    try:
        links = [Certificate.read(der) for der in chain]
    except CertificateError as error:
        raise PermissionDenied(f"{error}; have another one made") from error

    # OpenSSL takes one that does not say what it is for.
    if CLIENT_AUTH not in (links[0].purposes or ()):
        raise PermissionDenied(
            f"the certificate of {name} does not say that it is for a client (extended"
            " key usage clientAuth); have one made that does, as gen_certs.sh makes it"
        )

    if len(links[0].serial) > 2 * _SERIAL:
        raise PermissionDenied(
            f"the serial number of the certificate of {name} has more than {_SERIAL}"
            " bytes; have another one made"
        )

    return Principal(
        name,
        serial=links[0].serial,
        expires_at=min(link.ends for link in links),
        chain=chain,
    )


def verified_chain(tls: ssl.SSLObject) -> tuple[bytes, ...]:
    """Return the DER of the peer's certificate and of those that vouch for it."""
    if sys.version_info >= (3, 13):
        return tuple(tls.get_verified_chain())

    # Before Python 3.13 there is no public way to it.
    chain = tls._sslobj.get_verified_chain()  # type: ignore[attr-defined]  # noqa: SLF001  see above
    return tuple(link.public_bytes(_ssl.ENCODING_DER) for link in chain or ())


def name_in(certificate: Mapping[str, Any] | None) -> str:
    """Return the name in *certificate*, as `SSLObject.getpeercert` has it.

    Raises `PermissionDenied` unless there is one that is harmless.
    """
    names = list(_common_names((certificate or {}).get("subject", ())))

    if len(names) != 1:
        raise PermissionDenied(
            f"the certificate has {len(names)} common names; it needs exactly one"
        )

    (name,) = names

    if not _NAME.fullmatch(name):
        raise PermissionDenied(
            f"the certificate's common name {name!r:.80} is not 1 to 64 characters"
            " of A-Z a-z 0-9 . _ @ - that begin with a letter or digit"
        )

    return str(name)


def _common_names(subject: tuple[Any, ...]) -> Iterator[str]:
    # A subject is a tuple of RDNs, each a tuple of one or more (type, value).
    for relative_name in subject:
        for kind, value in relative_name:
            if kind == "commonName":
                yield value
