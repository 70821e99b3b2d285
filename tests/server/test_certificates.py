"""What is read from certificates and lists, and what is none."""

import contextlib
import random
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from teleworkerd.server.certificates import (
    CLIENT_AUTH,
    SERVER_AUTH,
    Certificate,
    CertificateError,
    RevocationList,
    format_moment,
    format_serial,
    read_blocks,
)
from tests.e2e.authority import (
    ANY,
    CLIENT,
    Authority,
    common,
    named,
    pem,
    without_end,
)
from tests.e2e.pki import DAY


ROOT: Final = Authority.root()


def read(certificate: x509.Certificate) -> Certificate:
    """Return what our own reader finds in *certificate*."""
    return Certificate.read(certificate.public_bytes(Encoding.DER))


def read_list(content: bytes) -> RevocationList:
    """Return what our own reader finds in the only list of *content*."""
    (block,) = read_blocks(content, "X509 CRL")
    return RevocationList.read(block)


def part(**what: bool) -> x509.IssuingDistributionPoint:
    """Return what a list says that is for some certificates only."""
    nothing = {
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_contains_attribute_certs": False,
        "indirect_crl": False,
    }
    return x509.IssuingDistributionPoint(
        full_name=[x509.DNSName("example")],
        relative_name=None,
        only_some_reasons=None,
        **(nothing | what),
    )


def test_client() -> None:
    """A client's certificate: who, which, since when, until when, what for."""
    alice = ROOT.client(begins=-2 * DAY, ends=3 * DAY).certificate
    now = datetime.now(UTC).timestamp()

    found = read(alice)

    assert found.name == "alice"
    assert int(found.serial, 16) == alice.serial_number
    assert abs(found.begins - (now - 2 * 86_400)) < 60
    assert abs(found.ends - (now + 3 * 86_400)) < 60
    assert found.purposes == frozenset({CLIENT_AUTH})
    assert not found.is_named
    assert not found.is_authority
    assert not found.is_self_issued


def test_server() -> None:
    """A server's has names, and its own purpose."""
    found = read(ROOT.server().certificate)

    assert found.is_named
    assert found.purposes == frozenset({SERVER_AUTH})


def test_root() -> None:
    """An authority says that it is one; without purposes it may issue clients."""
    found = read(ROOT.certificate)

    assert found.is_authority
    assert found.is_self_issued
    assert found.purposes is None
    assert found.issues_clients
    assert found.flaws() == []


@pytest.mark.parametrize(
    ("purposes", "is_able"), [(CLIENT, True), (ANY, False), ((), True)]
)
def test_authority_for_some(
    purposes: tuple[x509.ObjectIdentifier, ...], *, is_able: bool
) -> None:
    """An authority with purposes issues clients only if that is one of them."""
    found = read(Authority.root(purposes=purposes).certificate)

    assert found.issues_clients == is_able


def test_issuer() -> None:
    """Who has signed a certificate is known by the key, not by the name."""
    alice, impostor = ROOT.client().certificate, Authority.root()

    assert read(ROOT.certificate).has_issued(read(alice))
    assert read(ROOT.certificate).has_issued(read(ROOT.certificate))
    assert not read(impostor.certificate).has_issued(read(alice))
    assert not read(alice).has_issued(read(ROOT.certificate))


def test_renewed_authority_is_the_same() -> None:
    """An authority keeps its identity while it keeps its name and its key."""
    renewed = Authority.root(key=ROOT.key, ends=2 * DAY)

    assert read(renewed.certificate).identity == read(ROOT.certificate).identity
    assert (
        read(Authority.root().certificate).identity != read(ROOT.certificate).identity
    )


@pytest.mark.parametrize(
    ("odd", "flaw"),
    [
        ({"usages": ()}, "it has no key usage"),
        ({"usages": ("crl_sign",)}, "its key usage lacks keyCertSign"),
        ({"has_key_id": False}, "it has no subject key identifier"),
        ({"is_critical": False}, "its basic constraints are not critical"),
    ],
)
def test_flaws(odd: dict[str, Any], flaw: str) -> None:
    """What the strict checks want of an authority is named."""
    assert read(Authority.root(**odd).certificate).flaws() == [flaw]


def test_flaw_of_one_below() -> None:
    """One that is not a root says by its identifier who has signed it."""
    below = ROOT.authority("below", has_signer_id=False)

    assert read(below.certificate).flaws() == ["it has no authority key identifier"]


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        (common("alice"), "alice"),
        (common("a\nb\u202e\x1b[2J"), "a?b??[2J"),
        (common("x" * 1000), "x" * 80),
        (common("alice", "bob"), "CN=bob,CN=alice"),
        (named((NameOID.ORGANIZATION_NAME, "Example")), "O=Example"),
        (x509.Name([]), ""),
    ],
)
def test_name_for_people(subject: x509.Name, name: str) -> None:
    """A name is short and harmless, whatever stands in the certificate."""
    assert read(ROOT.client(subject).certificate).name == name


@pytest.mark.parametrize("cut", [0, 1, 4, 100, 300])
def test_cut_off(cut: int) -> None:
    """A certificate of which a part is missing is none."""
    der = ROOT.certificate.public_bytes(Encoding.DER)

    with pytest.raises(CertificateError, match="certificate cannot be read"):
        Certificate.read(der[:cut])


@pytest.mark.parametrize("oid", ["2.5.29.37", "2.5.29.17", "2.5.29.19", "2.5.29.15"])
def test_damaged_extension(oid: str) -> None:
    """An extension that is not built as it must be makes a certificate unreadable."""
    garbage = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), b"\x01\xff")
    odd = ROOT.client(
        purposes=(), usages=(), extensions=[(garbage, False)], is_constrained=False
    )

    with pytest.raises(CertificateError, match="certificate cannot be read"):
        read(odd.certificate)


def test_string_of_an_unknown_type() -> None:
    """A name in a string of a type that there is not makes it unreadable."""
    der = ROOT.client().certificate.public_bytes(Encoding.DER)
    odd = der.replace(b"\x0c\x05alice", b"\x55\x05alice")

    assert odd != der

    with pytest.raises(CertificateError, match="certificate cannot be read"):
        Certificate.read(odd)


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Return *data* with a few bytes changed, left out or put in."""
    odd = bytearray(data)

    for _ in range(chance.choice((1, 1, 2, 8))):
        place = chance.randrange(len(odd))
        new = bytes([chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))])
        odd[place : place + chance.randrange(2)] = new[: chance.randrange(2)]

    return bytes(odd)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_mutations(seed: int) -> None:
    """Whatever is wrong with the bytes, there is one error, or an answer."""
    chance = random.Random(seed)
    root = read(ROOT.certificate)
    certificate = ROOT.authority("below").client().der[seed % 2]
    (revoked,) = read_blocks(ROOT.revoke(ROOT.certificate), "X509 CRL")

    for _ in range(2000):
        with contextlib.suppress(CertificateError):
            one = Certificate.read(mutate(certificate, chance))
            assert isinstance(one.flaws(), list)
            assert isinstance(root.has_issued(one), bool)
            assert isinstance(one.has_issued(root), bool)

        with contextlib.suppress(CertificateError):
            other = RevocationList.read(mutate(revoked, chance))
            assert isinstance(other.is_of(root), bool)
            assert isinstance(other.serials(), frozenset)


def test_list() -> None:
    """A list says whose it is, since when, until when, and who is on it."""
    alice, bob = (ROOT.client(name).certificate for name in ("alice", "bob"))
    now = datetime.now(UTC).timestamp()

    found = read_list(ROOT.revoke(alice))

    assert found.authority == "Test CA"
    assert abs(found.begins - (now - 86_400)) < 60
    assert found.ends is not None
    assert abs(found.ends - (now + 86_400)) < 60
    assert found.serials() == {read(alice).serial}
    assert read(bob).serial not in found.serials()
    assert found.is_of(read(ROOT.certificate))
    assert found.is_complete


def test_list_without_end() -> None:
    """That a list does not say when the next one comes is seen."""
    found = read_list(without_end(ROOT.revoke(), ROOT.key))

    assert found.ends is None
    assert found.is_of(read(ROOT.certificate))


def test_list_of_another() -> None:
    """A list is of who has signed it; the name alone is nothing."""
    impostor = Authority.root()

    found = read_list(impostor.revoke())

    assert found.is_named_for(read(ROOT.certificate))
    assert not found.is_of(read(ROOT.certificate))
    assert not found.is_of(read(Authority.root("Other").certificate))


def test_list_and_key_of_another_kind() -> None:
    """An authority whose keys are of another kind has not signed it."""
    key = ed25519.Ed25519PrivateKey.generate()
    other = (
        x509.CertificateBuilder()
        .subject_name(common("Test CA"))
        .issuer_name(common("Test CA"))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.now(UTC) - DAY)
        .not_valid_after(datetime.now(UTC) + DAY)
        .sign(key, None)
    )

    assert not read_list(ROOT.revoke()).is_of(read(other))
    assert not read(other).has_issued(read(ROOT.client().certificate))


@pytest.mark.parametrize(
    ("extension", "is_complete"),
    [
        (x509.DeltaCRLIndicator(1), False),
        (part(only_contains_ca_certs=True), False),
        (part(indirect_crl=True), False),
        (part(only_contains_user_certs=True), True),
    ],
    ids=["delta", "authorities only", "indirect", "users"],
)
def test_part_of_a_list(extension: x509.ExtensionType, *, is_complete: bool) -> None:
    """A list that is for some certificates only, or only the changes, is seen."""
    found = read_list(ROOT.revoke(extensions=[(extension, True)]))

    assert found.is_complete == is_complete


def test_damaged_list() -> None:
    """What is no list is refused."""
    with pytest.raises(CertificateError, match="list cannot be read"):
        RevocationList.read(b"\x30\x03\x02\x01\x00")


def test_blocks() -> None:
    """Text between the blocks is passed over, and so are the ends of other systems."""
    other = Authority.root("Other")
    text = b"Subject: x\n" + ROOT.pem + b"\n# and\n" + other.pem.replace(b"\n", b"\r\n")

    found = [Certificate.read(der).name for der in read_blocks(text, "CERTIFICATE")]

    assert found == ["Test CA", "Other"]


@pytest.mark.parametrize("text", [b"", b"nonsense\n", b"\0" * 4096, b"\xff" * 4096])
def test_no_block(text: bytes) -> None:
    """Where there is none, it is said what was looked for."""
    with pytest.raises(CertificateError, match="no '-----BEGIN CERTIFICATE-----' in"):
        read_blocks(text, "CERTIFICATE")


def test_half_written() -> None:
    """Wherever a file is cut, but between two lines of text, it is not taken."""
    whole = ROOT.pem + Authority.root("Other").pem
    taken = []

    for left in range(1, len(whole)):
        try:
            count = len(read_blocks(whole[:left], "CERTIFICATE"))
        except CertificateError:
            continue

        taken.append((left, count))

    second = len(ROOT.pem)
    # The line's end, which a second block would need, may be missing or not.
    assert taken == [(second - 1, 1), (second, 1), (len(whole) - 1, 2)]


@pytest.mark.parametrize("damage", [b"!", b"=", b"\0"])
def test_damaged_block(damage: bytes) -> None:
    """What is not base64 is no block."""
    text = ROOT.pem[:100] + damage + ROOT.pem[100:]

    with pytest.raises(CertificateError, match="damaged"):
        read_blocks(text, "CERTIFICATE")


@pytest.mark.parametrize(
    "label", ["X509 CRL", "EC PRIVATE KEY", "TRUSTED CERTIFICATE", "X509 CERTIFICATE"]
)
def test_other_blocks(label: str) -> None:
    """A block of another kind is refused: OpenSSL would trust some of them."""
    text = ROOT.pem + ROOT.pem.replace(b"CERTIFICATE", label.encode())

    with pytest.raises(CertificateError, match=f"a {label} in it"):
        read_blocks(text, "CERTIFICATE")


def test_certificate_among_lists() -> None:
    """So OpenSSL is given no authority by way of the lists."""
    with pytest.raises(CertificateError, match="a CERTIFICATE in it"):
        read_blocks(ROOT.revoke() + pem(ROOT.certificate), "X509 CRL")


def test_formats() -> None:
    """Moments are in UTC; numbers have two digits for each byte, as with OpenSSL."""
    assert format_moment(0) == "1970-01-01 00:00:00 UTC"
    assert format_serial(0xABC) == "0ABC"
    assert format_serial(0x12) == "12"
