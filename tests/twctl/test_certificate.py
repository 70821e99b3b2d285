"""What is read in a certificate, beside what cryptography reads there."""

import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from tests.e2e.authority import ANY, LOOPBACK, SERVER, Authority
from tests.e2e.pki import DAY, Certificates
from twctl.certificate import CLIENT_AUTH, SERVER_AUTH, read_certificate


ROOT = Authority.root()


def der_of(certificate: x509.Certificate) -> bytes:
    """Return the bytes of *certificate*."""
    return certificate.public_bytes(Encoding.DER)


SAMPLE = der_of(ROOT.server().certificate)


@pytest.mark.parametrize(
    ("begins", "ends"),
    [
        (-DAY, DAY),
        (timedelta(days=-365 * 40), timedelta(days=365 * 30)),  # 1986 to 2056
        (timedelta(days=365 * 80), timedelta(days=365 * 800)),
    ],
)
def test_validity(begins: timedelta, ends: timedelta) -> None:
    """The dates are to the second, in both ways to write them."""
    certificate = ROOT.client(begins=begins, ends=ends).certificate

    read = read_certificate(der_of(certificate))

    assert read.begins == certificate.not_valid_before_utc.timestamp()
    assert read.ends == certificate.not_valid_after_utc.timestamp()


@pytest.mark.parametrize("month", range(1, 13))
@pytest.mark.parametrize("year", [1970, 1999, 2000, 2024, 2026, 2049])
def test_every_month(year: int, month: int) -> None:
    """Leap years and the lengths of months are those of the calendar."""
    digits = f"{year % 100:02}{month:02}28235959Z".encode()
    at = SAMPLE.index(b"\x17\x0d") + 2

    read = read_certificate(SAMPLE[:at] + digits + SAMPLE[at + len(digits) :])

    expected = datetime(year, month, 28, 23, 59, 59, tzinfo=UTC)
    assert read.begins == expected.timestamp()


def test_of_a_ca(certs: Certificates) -> None:
    """A CA of gen_certs.sh is an authority that signed itself."""
    read = read_certificate(ssl.PEM_cert_to_DER_cert(certs.ca.read_text()))

    assert read.is_authority
    assert read.is_self_issued


def test_of_a_client() -> None:
    """A client's has its purpose, and is no authority."""
    read = read_certificate(der_of(ROOT.client().certificate))

    assert read.purposes == {CLIENT_AUTH}
    assert read.names == ()
    assert not read.is_authority
    assert not read.is_self_issued


def test_of_a_server() -> None:
    """A server's has its names and addresses, in their order."""
    names = (*LOOPBACK, x509.DNSName("*.example.org"), x509.RFC822Name("a@b"))
    v6 = x509.IPAddress(ip_address("2001:db8::1"))
    both = (*SERVER, ExtendedKeyUsageOID.CLIENT_AUTH)

    server = ROOT.server(names=(*names, v6), purposes=both)

    read = read_certificate(der_of(server.certificate))
    assert read.purposes == {CLIENT_AUTH, SERVER_AUTH}
    assert read.names == ("localhost", "127.0.0.1", "*.example.org", "2001:db8::1")


@pytest.mark.parametrize("purposes", [(), ANY])
def test_without_a_purpose(purposes: tuple[x509.ObjectIdentifier, ...]) -> None:
    """Neither no extended key usage nor "any" is one of the two."""
    read = read_certificate(der_of(ROOT.client(purposes=purposes).certificate))

    assert not {CLIENT_AUTH, SERVER_AUTH} & read.purposes


def test_without_extensions() -> None:
    """What has no extensions at all is nobody's and for nothing."""
    bare = ROOT.client(
        purposes=(),
        usages=(),
        is_constrained=False,
        has_key_id=False,
        has_signer_id=False,
    )

    read = read_certificate(der_of(bare.certificate))

    assert (read.purposes, read.names, read.is_authority) == (frozenset(), (), False)


@pytest.mark.parametrize("size", [0, 1, 3, 40, 90, -1])
def test_stump(size: int) -> None:
    """A certificate that is cut off is a ValueError, wherever the cut is."""
    with pytest.raises(ValueError, match="cut off"):
        read_certificate(SAMPLE[:size])


@given(st.integers(0, len(SAMPLE) - 1), st.binary(min_size=1, max_size=8))
def test_damaged(at: int, other: bytes) -> None:
    """Whatever is spoilt, it can be read or is a ValueError."""
    spoilt = SAMPLE[:at] + other + SAMPLE[at + len(other) :]

    with suppress(ValueError):
        read_certificate(spoilt)


@given(st.binary(max_size=200))
def test_garbage(data: bytes) -> None:
    """What is no certificate is a ValueError."""
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
        read_certificate(data)
