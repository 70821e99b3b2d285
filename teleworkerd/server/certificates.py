"""What certificates and revocation lists say; `ssl` does not tell.

This is the only module that knows `cryptography`.
"""

import binascii
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Self, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from teleworkerd.protocol.errors import TeleworkerError


E = TypeVar("E", bound=x509.ExtensionType)

CERTIFICATE: Final = "CERTIFICATE"
REVOCATION_LIST: Final = "X509 CRL"

CLIENT_AUTH: Final = ExtendedKeyUsageOID.CLIENT_AUTH.dotted_string
SERVER_AUTH: Final = ExtendedKeyUsageOID.SERVER_AUTH.dotted_string

# What `cryptography` raises for that which is no certificate; a string of a type that
# it does not know is a `LookupError`. These have no common base but `Exception`.
_MALFORMED: Final = (
    ValueError,
    TypeError,
    LookupError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
)

_MARK: Final = re.compile(rb"-----(BEGIN|END) ([A-Z0-9 ]+)-----\s*")
_MARK_LIKE: Final = re.compile(rb"^-----(?:BEGIN|END).*$|^-[^\n]*\Z", re.MULTILINE)
_NAME_LENGTH: Final = 80  # characters of a name in a message


class CertificateError(TeleworkerError):
    """A certificate or a list is not as it must be; says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Certificate:
    """What a certificate says.

    `name` is the subject for people. `begins` and `ends` are its first and its last
    second since the epoch. `purposes` are the OIDs of its extended key usage, None
    where it has none; `is_named` says whether it has subject alternative names.
    `identity` is its subject and its key: a renewed authority keeps it. `parsed` is
    for this module alone.
    """

    der: bytes
    name: str
    serial: str
    begins: float
    ends: float
    purposes: frozenset[str] | None
    is_named: bool
    is_authority: bool
    is_self_issued: bool
    identity: tuple[bytes, bytes]
    parsed: x509.Certificate = field(repr=False)

    @classmethod
    def read(cls, der: bytes) -> Self:
        """Return what *der* says; raises `CertificateError`."""
        try:
            with _quietly():
                return cls._of(x509.load_der_x509_certificate(der), der)
        except _MALFORMED as error:
            raise CertificateError(f"a certificate cannot be read: {error}") from error

    @classmethod
    def _of(cls, parsed: x509.Certificate, der: bytes) -> Self:
        constraints = _extension(parsed, x509.BasicConstraints)
        return cls(
            der=der,
            name=_name(parsed.subject),
            serial=format_serial(parsed.serial_number),
            begins=parsed.not_valid_before_utc.timestamp(),
            ends=parsed.not_valid_after_utc.timestamp(),
            purposes=_purposes(_extension(parsed, x509.ExtendedKeyUsage)),
            is_named=bool(_names(parsed)),
            is_authority=constraints is not None and constraints.ca,
            is_self_issued=parsed.subject == parsed.issuer,
            identity=(
                parsed.subject.public_bytes(),
                parsed.public_key().public_bytes(
                    Encoding.DER, PublicFormat.SubjectPublicKeyInfo
                ),
            ),
            parsed=parsed,
        )

    @property
    def issues_clients(self) -> bool:
        """Whether OpenSSL would take a client's certificate from this authority."""
        return self.purposes is None or CLIENT_AUTH in self.purposes

    @property
    def signs_lists(self) -> bool:
        """Whether its key usage lets it sign revocation lists."""
        usage = _extension(self.parsed, x509.KeyUsage)
        return usage is None or usage.crl_sign

    def is_valid_at(self, now: float) -> bool:
        """Whether *now*, in seconds since the epoch, is between its ends."""
        return self.begins <= now <= self.ends

    def has_issued(self, other: "Certificate") -> bool:
        """Whether its key has signed *other*."""
        try:
            other.parsed.verify_directly_issued_by(self.parsed)
        except (*_MALFORMED, InvalidSignature):
            return False

        return True

    def flaws(self) -> list[str]:
        """Return what `X509_STRICT` refuses in it as an authority."""
        return list(_flaws(self.parsed, is_root=self.is_self_issued))


@dataclass(frozen=True, slots=True, eq=False)
class RevocationList:
    """Whose certificates an authority does not stand by any more.

    `authority` is its name for people. Without an `ends` it does not say when the
    next one comes; it is not complete if it is only a part of a list, or the changes
    of one. `parsed` is for this module alone.
    """

    der: bytes
    authority: str
    begins: float
    ends: float | None
    is_complete: bool
    parsed: x509.CertificateRevocationList = field(repr=False)

    @classmethod
    def read(cls, der: bytes) -> Self:
        """Return what *der* says; raises `CertificateError`."""
        try:
            with _quietly():
                return cls._of(x509.load_der_x509_crl(der), der)
        except _MALFORMED as error:
            raise CertificateError(f"a list cannot be read: {error}") from error

    @classmethod
    def _of(cls, parsed: x509.CertificateRevocationList, der: bytes) -> Self:
        ends = parsed.next_update_utc
        return cls(
            der=der,
            authority=_name(parsed.issuer),
            begins=parsed.last_update_utc.timestamp(),
            ends=None if ends is None else ends.timestamp(),
            is_complete=_is_complete(parsed),
            parsed=parsed,
        )

    @property
    def pem(self) -> bytes:
        """The list as OpenSSL reads it from a file."""
        return self.parsed.public_bytes(Encoding.PEM)

    def serials(self) -> frozenset[str]:
        """Return the numbers of the certificates; there may be very many.

        Raises `CertificateError`.
        """
        try:
            return frozenset(format_serial(one.serial_number) for one in self.parsed)
        except _MALFORMED as error:
            raise CertificateError(f"a list cannot be read: {error}") from error

    def is_named_for(self, authority: Certificate) -> bool:
        """Whether it says that it is of *authority*."""
        with _quietly():
            return self.parsed.issuer == authority.parsed.subject

    def is_of(self, authority: Certificate) -> bool:
        """Whether the key of *authority* has signed it."""
        try:
            # The types of keys that sign nothing raise as well.
            return self.is_named_for(authority) and self.parsed.is_signature_valid(
                authority.parsed.public_key()  # type: ignore[arg-type]  # see above
            )
        except _MALFORMED:
            return False


def read_blocks(content: bytes, kind: str) -> list[bytes]:
    """Return the DER of each block in *content*, which is PEM.

    Raises `CertificateError` if there is none, one of another *kind*, or one that
    is not whole.
    """
    blocks = list(_blocks(content, kind))

    if not blocks:
        raise CertificateError(f"there is no '-----BEGIN {kind}-----' in it")

    return blocks


def format_moment(seconds: float) -> str:
    """Return a moment as people read it, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def format_serial(number: int) -> str:
    """Return a certificate's number as OpenSSL writes it."""
    digits = f"{number:X}"
    return digits if len(digits) % 2 == 0 else f"0{digits}"


def _blocks(content: bytes, kind: str) -> Iterator[bytes]:
    start: int | None = None  # of the block that has begun

    for line in _MARK_LIKE.finditer(content.rstrip()):
        mark = _MARK.fullmatch(line[0])

        if mark is None or (mark[1] == b"END") != (start is not None):
            raise CertificateError("a block in it has no beginning or no end")

        if (label := mark[2].decode("ascii")) != kind:
            raise CertificateError(
                f"there is a {label} in it, and nothing but {kind} belongs there"
            )

        if start is None:
            start = line.end()
        else:
            yield _decode(content[start : line.start()], kind)
            start = None

    if start is not None:
        raise CertificateError("the last block in it is cut off")


def _decode(text: bytes, kind: str) -> bytes:
    try:
        return binascii.a2b_base64(b"".join(text.split()), strict_mode=True)
    except binascii.Error as error:
        raise CertificateError(f"a {kind} in it is damaged: {error}") from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Say nothing of lengths that RFC 5280 does not allow; anybody may send them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _extension(
    parsed: x509.Certificate | x509.CertificateRevocationList, kind: type[E]
) -> E | None:
    try:
        return parsed.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _is_complete(parsed: x509.CertificateRevocationList) -> bool:
    known = x509.IssuingDistributionPoint
    part = _extension(parsed, known)

    if part is not None and (
        part.indirect_crl
        or part.only_some_reasons
        or part.only_contains_ca_certs
        or part.only_contains_attribute_certs
    ):
        return False

    return not any(
        extension.critical and not isinstance(extension.value, known)
        for extension in parsed.extensions
    )


def _purposes(usage: x509.ExtendedKeyUsage | None) -> frozenset[str] | None:
    return None if usage is None else frozenset(one.dotted_string for one in usage)


def _names(parsed: x509.Certificate) -> list[x509.GeneralName]:
    return list(_extension(parsed, x509.SubjectAlternativeName) or ())


def _name(name: x509.Name) -> str:
    """Return *name* so that it may stand in a message."""
    common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    text = str(common[0].value) if len(common) == 1 else name.rfc4514_string()
    return "".join(letter if letter.isprintable() else "?" for letter in text)[
        :_NAME_LENGTH
    ]


def _flaws(parsed: x509.Certificate, *, is_root: bool) -> Iterator[str]:
    extensions = {one.oid: one for one in parsed.extensions}
    constraints = extensions.get(x509.BasicConstraints.oid)
    usage = _extension(parsed, x509.KeyUsage)

    if parsed.version is not x509.Version.v3:
        yield "it is not of version 3"

    if constraints is not None and not constraints.critical:
        yield "its basic constraints are not critical"

    if usage is None:
        yield "it has no key usage"
    elif not usage.key_cert_sign:
        yield "its key usage lacks keyCertSign"

    if x509.SubjectKeyIdentifier.oid not in extensions:
        yield "it has no subject key identifier"

    if not is_root and x509.AuthorityKeyIdentifier.oid not in extensions:
        yield "it has no authority key identifier"

    if not list(parsed.subject):
        yield "it has no subject"
