"""Who a certificate belongs to: exactly one decent name, or nobody."""

import ssl
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from teleworkerd.protocol.errors import PermissionDenied
from teleworkerd.server.auth import Principal, authenticate, name_in, verified_chain
from tests.e2e.authority import (
    ANY,
    CLIENT,
    SERVER,
    Authority,
    Signed,
    directory_of,
    named,
)
from tests.e2e.pki import DAY, Certificates
from tests.server.handshakes import shake_hands


# As `getpeercert` has it: a subject is a tuple of RDNs, each a tuple of pairs.
CN: Final = "commonName"
ORG: Final = (("organizationName", "Example"),)
UNIT: Final = ("organizationalUnitName", "ops")


def certificate(*subject: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """Return a certificate with the RDNs of *subject*."""
    return {"subject": subject}


@pytest.mark.parametrize(
    "name",
    [
        "alice",
        "Alice",
        "0",
        "a" * 64,
        "ci-runner.example.org",
        "alice@example.org",
        "a_b",
        "..".join("ab"),
    ],
)
def test_decent(name: str) -> None:
    """A name of harmless characters is taken as it is."""
    assert name_in(certificate(ORG, ((CN, name),))) == name


def test_multi_valued_rdn() -> None:
    """The name may share its RDN with others, in any place."""
    assert name_in(certificate((UNIT, (CN, "alice")))) == "alice"
    assert name_in(certificate(((CN, "alice"), UNIT))) == "alice"


@pytest.mark.parametrize(
    "subject",
    [
        (),
        (ORG,),
        (((CN, "alice"),), ((CN, "root"),)),
        (((CN, "alice"), (CN, "alice")),),
        (((CN, "alice"),), (UNIT, (CN, "root"))),
    ],
    ids=["none", "no CN", "two RDNs", "two in an RDN", "hidden second"],
)
def test_not_one_name(subject: tuple[tuple[tuple[str, str], ...], ...]) -> None:
    """No name, or more than one, is nobody."""
    with pytest.raises(PermissionDenied, match="common names; it needs exactly one"):
        name_in(certificate(*subject))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a" * 65,
        "alice\n",
        "alice\nroot",
        "alice\0root",
        "\0",
        "../etc",
        "a/b",
        ".hidden",
        "-rf",
        "@home",
        "alice bob",
        " alice",
        "älice",
        "аlice",  # noqa: RUF001  a Cyrillic letter is the point
        "alice\u200b",
        "\u202eecila",
        "ａlice",  # noqa: RUF001  so is a full-width one
        "\u0661",
        "a" * 100_000,
    ],
)
def test_odd(name: str) -> None:
    """A name that could be mistaken for another, or for a path, is nobody."""
    with pytest.raises(PermissionDenied) as caught:
        name_in(certificate(((CN, name),)))

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("nothing", [None, {}])
def test_no_certificate(nothing: dict[str, Any] | None) -> None:
    """Without a certificate there is nobody."""
    with pytest.raises(PermissionDenied):
        name_in(nothing)


@pytest.fixture(scope="module")
def root() -> Authority:
    """The authority of the server below."""
    return Authority.root(ends=5 * DAY)


@pytest.fixture(scope="module")
def own(root: Authority, tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """What a server has that trusts *root*."""
    return directory_of(tmp_path_factory.mktemp("own"), root.server(), root)


def end_of(certificate: x509.Certificate) -> float:
    """Return the last second of *certificate* since the epoch."""
    return certificate.not_valid_after_utc.timestamp()


Enter = Callable[[Signed], Principal]


@pytest.fixture
def enter(own: Certificates, tmp_path: Path) -> Enter:
    """Shake hands with a certificate; return who the server takes it for."""

    def enter(signed: Signed) -> Principal:
        return authenticate(shake_hands(own, signed.save(tmp_path, "client")))

    return enter


def test_principal(root: Authority, enter: Enter) -> None:
    """The name, the number, the end, and the chain up to the root."""
    alice = root.client(ends=2 * DAY)

    found = enter(alice)

    assert found.name == "alice"
    assert int(found.serial, 16) == alice.certificate.serial_number
    assert found.expires_at == end_of(alice.certificate)
    assert found.chain == (*alice.der, root.certificate.public_bytes(Encoding.DER))


def test_principal_by_an_intermediate(root: Authority, enter: Enter) -> None:
    """What ends first counts, and the chain has those between."""
    below = root.authority("below", ends=DAY)
    alice = below.client(ends=2 * DAY)

    found = enter(alice)

    assert found.expires_at == end_of(below.certificate)
    assert found.chain == (*alice.der, root.certificate.public_bytes(Encoding.DER))
    assert len(found.chain) == 3


def test_missing_intermediate(root: Authority, enter: Enter) -> None:
    """Who does not send what stands between is nobody."""
    alice = root.authority("below").client()

    with pytest.raises(ssl.SSLCertVerificationError, match="local issuer"):
        enter(Signed(alice.certificate, alice.key))


def deep(root: Authority, count: int) -> Signed:
    """Return a client's certificate with *count* authorities below *root* above it."""
    return reduce(
        lambda above, number: above.authority(f"{number}"), range(count), root
    ).client()


def test_longest_chain(root: Authority, enter: Enter) -> None:
    """Ten certificates are not too many."""
    assert len(enter(deep(root, 8)).chain) == 10


def test_deep_chain(root: Authority, enter: Enter) -> None:
    """Twenty are, which the message says."""
    with pytest.raises(PermissionDenied, match="has 20 others above it, and more than"):
        enter(deep(root, 19))


def test_no_purpose(root: Authority, enter: Enter) -> None:
    """OpenSSL takes a certificate that says nothing of a purpose; we do not."""
    with pytest.raises(PermissionDenied) as caught:
        enter(root.client(purposes=()))

    assert str(caught.value) == (
        "the certificate of alice does not say that it is for a client (extended key"
        " usage clientAuth); have one made that does, as gen_certs.sh makes it"
    )


@pytest.mark.parametrize("purposes", [ANY, SERVER])
def test_other_purpose(
    root: Authority, enter: Enter, purposes: tuple[x509.ObjectIdentifier, ...]
) -> None:
    """Nor does it, or anybody, take one for something else, or for anything."""
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        enter(root.client(purposes=purposes))


def test_several_purposes(root: Authority, enter: Enter) -> None:
    """That it is for a server as well is no harm."""
    assert enter(root.client(purposes=(*SERVER, *CLIENT))).name == "alice"


@pytest.mark.parametrize(
    "kind", [_ASN1Type.BMPString, _ASN1Type.PrintableString, _ASN1Type.T61String]
)
def test_encodings(root: Authority, enter: Enter, kind: _ASN1Type) -> None:
    """However the name is encoded, it is the same name."""
    attribute = x509.NameAttribute(NameOID.COMMON_NAME, "alice", _type=kind)

    assert enter(root.client(x509.Name([attribute]))).name == "alice"


def test_case_counts(root: Authority, enter: Enter) -> None:
    """Alice is not alice."""
    assert enter(root.client("Alice")).name != enter(root.client("alice")).name


def test_name_as_alternative_does_not_count(root: Authority, enter: Enter) -> None:
    """Who has a name as a subject alternative name alone has none."""
    subject = named((NameOID.ORGANIZATION_NAME, "Example"))

    with pytest.raises(PermissionDenied, match="has 0 common names"):
        enter(root.client(subject, names=[x509.DNSName("alice")]))


def test_unreadable(root: Authority, enter: Enter) -> None:
    """What OpenSSL takes and we cannot read is refused, not a bug."""
    odd = x509.UnrecognizedExtension(
        x509.ObjectIdentifier("1.3.6.1.5.5.7.1.1"), b"\x01\xff"
    )

    with pytest.raises(
        PermissionDenied, match=r"certificate cannot be read.*another one"
    ):
        enter(root.client(extensions=[(odd, False)]))


def test_chain_of_nobody() -> None:
    """Before a handshake nobody vouches for anything."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).wrap_bio(
        ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True
    )

    assert verified_chain(tls) == ()
