"""An authority that signs whatever it is asked to: certificates and lists."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.e2e.pki import DAY, Certificates, Identity


Key = ec.EllipticCurvePrivateKey
Subject = str | x509.Name

CLIENT: Final = (ExtendedKeyUsageOID.CLIENT_AUTH,)
SERVER: Final = (ExtendedKeyUsageOID.SERVER_AUTH,)
ANY: Final = (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)

LOOPBACK: Final = (
    x509.DNSName("localhost"),
    x509.IPAddress(ip_address("127.0.0.1")),
)

_LEAF: Final = frozenset({"digital_signature"})
_AUTHORITY: Final = frozenset({"key_cert_sign", "crl_sign"})
_USAGES: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def new_key() -> Key:
    """Make a key."""
    return ec.generate_private_key(ec.SECP256R1())


def named(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    """Return a subject of one RDN for each of *attributes*; nothing is checked."""
    with warnings.catch_warnings(action="ignore"):
        return x509.Name(
            [
                x509.NameAttribute(kind, text, _validate=False)
                for kind, text in attributes
            ]
        )


def common(*names: str) -> x509.Name:
    """Return a subject with each of *names* as a common name."""
    return named(*((NameOID.COMMON_NAME, name) for name in names))


@dataclass(frozen=True, slots=True)
class Signed:
    """A certificate, its key, and what is to be sent along with it."""

    certificate: x509.Certificate
    key: Key
    above: tuple[x509.Certificate, ...] = ()

    @property
    def pem(self) -> bytes:
        return pem(self.certificate, *self.above)

    @property
    def der(self) -> tuple[bytes, ...]:
        """Its chain, without the root."""
        chain = (self.certificate, *self.above)
        return tuple(link.public_bytes(Encoding.DER) for link in chain)

    def save(self, directory: Path, name: str) -> Identity:
        """Write it as gen_certs.sh would."""
        directory.mkdir(parents=True, exist_ok=True)
        identity = Identity(directory / f"{name}.pem", directory / f"{name}-key.pem")
        identity.cert.write_bytes(self.pem)
        identity.key.touch(mode=0o600)
        identity.key.write_bytes(
            self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        return identity


@dataclass(frozen=True, slots=True)
class Authority(Signed):
    """One that signs; *above* are those between it and the root, itself the first."""

    @classmethod
    def root(cls, name: str = "Test CA", key: Key | None = None, **odd: Any) -> Self:
        """Make one that is nobody's."""
        key = key or new_key()
        subject = common(name)
        certificate = sign(subject, key, subject, key, is_authority=True, **odd)
        return cls(certificate, key)

    @classmethod
    def of(cls, certs: Certificates) -> Self:
        """Be the one that gen_certs.sh has made."""
        key = load_pem_private_key(certs.ca_key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return cls(x509.load_pem_x509_certificate(certs.ca.read_bytes()), key)

    def authority(self, name: str, key: Key | None = None, **odd: Any) -> "Authority":
        """Make one below it."""
        key = key or new_key()
        certificate = self._sign(common(name), key, is_authority=True, **odd)
        return Authority(certificate, key, (certificate, *self.above))

    def client(self, subject: Subject = "alice", **odd: Any) -> Signed:
        """Make a client's certificate."""
        return self._leaf(subject, **{"purposes": CLIENT, **odd})

    def server(self, subject: Subject = "server", **odd: Any) -> Signed:
        """Make a server's certificate, for loopback."""
        return self._leaf(subject, **{"purposes": SERVER, "names": LOOPBACK, **odd})

    def revoke(
        self,
        *revoked: x509.Certificate,
        begins: timedelta = -DAY,
        ends: timedelta = DAY,
        extensions: Iterable[tuple[x509.ExtensionType, bool]] = (),
    ) -> bytes:
        """Return a list, as PEM, of what it does not stand by any more."""
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now + begins)
            .next_update(now + ends)
            .add_extension(_signer_id(self.key), critical=False)
        )

        for each in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(each.serial_number)
                .revocation_date(now)
                .build()
            )

        for extension, is_critical in extensions:
            builder = builder.add_extension(extension, critical=is_critical)

        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def _leaf(self, subject: Subject, **odd: Any) -> Signed:
        key = new_key()
        name = common(subject) if isinstance(subject, str) else subject
        return Signed(self._sign(name, key, **odd), key, self.above)

    def _sign(self, subject: x509.Name, key: Key, **odd: Any) -> x509.Certificate:
        return sign(subject, key, self.certificate.subject, self.key, **odd)


def sign(
    subject: x509.Name,
    key: Key,
    issuer: x509.Name,
    signer: Key,
    *,
    is_authority: bool = False,
    is_constrained: bool = True,
    is_critical: bool = True,
    purposes: Sequence[x509.ObjectIdentifier] = (),
    usages: Iterable[str] | None = None,
    names: Sequence[x509.GeneralName] = (),
    has_key_id: bool = True,
    has_signer_id: bool = True,
    path_length: int | None = None,
    begins: timedelta = -DAY,
    ends: timedelta = 90 * DAY,
    extensions: Iterable[tuple[x509.ExtensionType, bool]] = (),
) -> x509.Certificate:
    """Sign a certificate; without *usages* said, it has those that are due."""
    now = datetime.now(UTC)
    due = _AUTHORITY if is_authority else _LEAF
    wanted = frozenset(due if usages is None else usages)
    candidates = [
        (is_constrained, x509.BasicConstraints(is_authority, path_length), is_critical),
        (wanted, _usage(wanted), True),
        (purposes, x509.ExtendedKeyUsage(purposes or CLIENT), False),
        (names, x509.SubjectAlternativeName(names), False),
        (has_key_id, _key_id(key), False),
        (has_signer_id, _signer_id(signer), False),
        *((True, *each) for each in extensions),
    ]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
    )

    for is_there, extension, critical in candidates:
        if is_there:
            builder = builder.add_extension(extension, critical=critical)

    return builder.sign(signer, hashes.SHA256())


def without_end(revoked: bytes, signer: Key) -> bytes:
    """Return the list *revoked* as PEM without its nextUpdate, signed by *signer*."""
    parsed = x509.load_pem_x509_crl(revoked)
    fields = _content(parsed.tbs_certlist_bytes)
    # Of its two times, each 0x17, 13 and as many digits, it is the second.
    second = fields.index(b"\x17\x0d", fields.index(b"\x17\x0d") + 15)
    body = _element(0x30, fields[:second] + fields[second + 15 :])
    algorithm = fields[3 : 3 + 2 + fields[4]]
    signature = signer.sign(body, ec.ECDSA(hashes.SHA256()))
    der = _element(0x30, body + algorithm + _element(0x03, b"\0" + signature))
    return x509.load_der_x509_crl(der).public_bytes(Encoding.PEM)


def pem(*certificates: x509.Certificate) -> bytes:
    """Return *certificates* as they stand in a file."""
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def directory_of(
    directory: Path,
    server: Signed,
    *authorities: Authority,
    lists: bytes | None = None,
) -> Certificates:
    """Write a daemon's directory."""
    server.save(directory, "server")
    certs = Certificates(directory)
    certs.ca.write_bytes(pem(*(each.certificate for each in authorities)))

    if lists is not None:
        (directory / "crl.pem").write_bytes(lists)

    return certs


def _usage(wanted: frozenset[str]) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in wanted for name in _USAGES})


def _key_id(key: Key) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def _signer_id(key: Key) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _content(der: bytes) -> bytes:
    return der[2 + (der[1] & 0x7F if der[1] & 0x80 else 0) :]


def _element(tag: int, content: bytes) -> bytes:
    size = len(content)

    if size < 0x80:
        return bytes([tag, size]) + content

    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content
