"""The server's context: what it insists on, and which file is wrong."""

import re
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509

from teleworkerd.certfiles import CertificateFileError, read_files
from teleworkerd.counters import Refusal
from teleworkerd.server.tls import TlsError, classify, describe, server_context
from tests.e2e.authority import (
    ANY,
    CLIENT,
    SERVER,
    Authority,
    directory_of,
    without_end,
)
from tests.e2e.pki import DAY, Certificates, revoke
from tests.scarce import no_descriptors


FILES: Final = ("ca.pem", "server.pem", "server-key.pem")


@pytest.fixture
def directory(certs: Certificates, tmp_path: Path) -> Path:
    """Copies of the server's files, to be spoilt."""
    for name in (*FILES, "ca-key.pem", "alice.pem", "alice-key.pem"):
        shutil.copy(certs.directory / name, tmp_path)

    return tmp_path


def refusal(directory: Path) -> str:
    """Return why there is no context for the files of *directory*."""
    with pytest.raises(TlsError) as caught:
        server_context(read_files(directory))

    return str(caught.value)


def authority_of(directory: Path) -> Authority:
    """Return the authority that gen_certs.sh made in *directory*."""
    return Authority.of(Certificates(directory))


def encrypt(directory: Path) -> None:
    """Put a passphrase on the key."""
    key = directory / "server-key.pem"
    plain = key.rename(directory / "plain.pem")
    subprocess.run(
        ["openssl", "pkey", "-in", plain, "-aes256", "-passout", "pass:x", "-out", key],
        check=True,
    )


def test_insists(directory: Path) -> None:
    """TLS 1.3, a client certificate, strict checks, no tickets."""
    context = server_context(read_files(directory))

    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.num_tickets == 0
    assert not context.verify_flags & ssl.VERIFY_CRL_CHECK_LEAF


def test_only_our_ca(directory: Path) -> None:
    """The authorities of the system vouch for nobody."""
    assert len(server_context(read_files(directory)).get_ca_certs()) == 1


def test_revocations(directory: Path) -> None:
    """A crl.pem that is there is used."""
    shutil.copy(directory / "alice.pem", directory / "bob.pem")
    revoke(Certificates(directory), "alice")
    context = server_context(read_files(directory))

    assert context.verify_flags & ssl.VERIFY_CRL_CHECK_LEAF
    assert context.cert_store_stats()["crl"] == 1


@pytest.mark.parametrize("name", FILES)
def test_missing(directory: Path, name: str) -> None:
    """A missing file is named, with where to get it from."""
    (directory / name).unlink()

    with pytest.raises(
        CertificateFileError, match=rf"{name} does not exist; .*gen_certs\.sh"
    ):
        server_context(read_files(directory))


@pytest.mark.parametrize("name", FILES)
def test_directory_in_its_place(directory: Path, name: str) -> None:
    """So is one that cannot be read."""
    (directory / name).unlink()
    (directory / name).mkdir()

    with pytest.raises(CertificateFileError, match=rf"{name} is not a file"):
        server_context(read_files(directory))


@pytest.mark.parametrize("text", ["", "nonsense\n"])
@pytest.mark.parametrize("name", [*FILES, "crl.pem"])
def test_nonsense(directory: Path, name: str, text: str) -> None:
    """So is one that holds nothing of use."""
    (directory / name).write_text(text)

    assert re.search(f"{name}.* cannot be used", refusal(directory))


@pytest.mark.parametrize("name", [*FILES, "crl.pem"])
@pytest.mark.parametrize("left", [0.02, 0.5, 0.97])
def test_half_written(directory: Path, name: str, left: float) -> None:
    """One that somebody is still writing is refused, and taken once it is whole."""
    (directory / "crl.pem").write_bytes(authority_of(directory).revoke())
    whole = (directory / name).read_bytes()
    (directory / name).write_bytes(whole[: int(left * len(whole))])

    message = refusal(directory)

    assert name in message
    (directory / name).write_bytes(whole)
    server_context(read_files(directory))


def test_key_of_another(directory: Path) -> None:
    """A key that does not fit its certificate is told as that."""
    shutil.copy(directory / "alice-key.pem", directory / "server-key.pem")

    assert re.search(
        r"server-key\.pem is not the key of .*server\.pem", refusal(directory)
    )


def test_encrypted_key(directory: Path) -> None:
    """A key with a passphrase is an error; nobody is asked at the terminal."""
    encrypt(directory)
    key = directory / "server-key.pem"

    message = refusal(directory)

    assert message.startswith(f"{key} is encrypted, and a daemon needs a key without")
    assert f"'openssl pkey -in {key} -out NEW'" in message


def test_no_descriptor(directory: Path) -> None:
    """The want of a descriptor is a reason like another: a reload goes on without."""
    files = read_files(directory)

    with no_descriptors(), pytest.raises(TlsError, match="given to OpenSSL: Too many"):
        server_context(files)


# What is odd about the server's certificate, and what is said of it.
SERVER_FLAWS: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "expired": ({"begins": -2 * DAY, "ends": -DAY}, r"server\.pem expired at 20"),
    "early": (
        {"begins": DAY, "ends": 2 * DAY},
        r"server\.pem is not valid before 20.*and it is 20.*look at the clock",
    ),
    "no names": ({"names": ()}, r"server\.pem has no subject alternative name"),
    "no purpose": ({"purposes": ()}, "not say that it is for a server .*serverAuth"),
    "any purpose": ({"purposes": ANY}, "not say that it is for a server .*serverAuth"),
    "of a client": ({"purposes": CLIENT}, "not say that it is for a server"),
    "no identifier": (
        {"has_signer_id": False},
        r"would be refused by clients that trust .*ca\.pem: .*Authority Key Id",
    ),
}


@pytest.mark.parametrize("name", SERVER_FLAWS)
def test_server_certificate(directory: Path, name: str) -> None:
    """A certificate that no client should take is refused, with what to do."""
    odd, words = SERVER_FLAWS[name]
    authority_of(directory).server(**odd).save(directory, "server")

    message = refusal(directory)

    assert re.search(words, message)
    assert "look at the clock" in message or "run gen_certs.sh again" in message


def test_server_of_another_authority(directory: Path) -> None:
    """So is one that ca.pem has not signed."""
    Authority.root().server().save(directory, "server")

    assert "would be refused by clients that trust" in refusal(directory)


def test_server_with_intermediate(tmp_path: Path) -> None:
    """The server sends those between its own certificate and the root."""
    root = Authority.root()
    directory_of(tmp_path, root.authority("below").server(), root)

    server_context(read_files(tmp_path))


def test_key_in_the_certificate(directory: Path) -> None:
    """A private key in server.pem, which everybody reads, is refused."""
    with (directory / "server.pem").open("ab") as file:
        file.write((directory / "server-key.pem").read_bytes())

    assert re.search(r"server\.pem cannot .* PRIVATE KEY in it", refusal(directory))


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"usages": ()}, "it has no key usage"),
        ({"usages": ("crl_sign",)}, "its key usage lacks keyCertSign"),
        ({"has_key_id": False}, "it has no subject key identifier"),
        ({"is_critical": False}, "its basic constraints are not critical"),
        ({"begins": -2 * DAY, "ends": -DAY}, r"ca\.pem expired at 20"),
        ({"begins": DAY, "ends": 2 * DAY}, r"ca\.pem is not valid before 20"),
    ],
)
def test_authority_with_a_flaw(tmp_path: Path, odd: dict[str, Any], words: str) -> None:
    """An authority that the strict checks refuse is named with what is missing."""
    root = Authority.root(**odd)
    directory_of(tmp_path, root.server(), root)

    message = refusal(tmp_path)

    assert re.search(words, message)
    assert str(tmp_path / "ca.pem") in message


def test_user_among_the_authorities(directory: Path) -> None:
    """A certificate in ca.pem that is no authority's would be let in by itself."""
    alice = (directory / "alice.pem").read_bytes()
    (directory / "ca.pem").write_bytes((directory / "ca.pem").read_bytes() + alice)

    assert "alice is not an authority" in refusal(directory)


def test_authority_that_is_over(directory: Path) -> None:
    """One that has ended may stand beside its successor."""
    old = Authority.root("old", begins=-2 * DAY, ends=-DAY)
    (directory / "ca.pem").write_bytes((directory / "ca.pem").read_bytes() + old.pem)

    assert len(server_context(read_files(directory)).get_ca_certs()) == 2


# How the list is made, by the right authority and another, and what is said of it.
LISTS: Final[dict[str, tuple[Callable[[Authority, Authority], bytes], str]]] = {
    "expired": (
        lambda ca, other: ca.revoke(begins=-2 * DAY, ends=-DAY),
        r"expired at 20.*nobody would be let in: .*'gen_certs\.sh --renew-crl'",
    ),
    "early": (
        lambda ca, other: ca.revoke(begins=DAY, ends=2 * DAY),
        "is not valid before 20.*look at the clock",
    ),
    "no end": (
        lambda ca, other: without_end(ca.revoke(), ca.key),
        r"not say when the next one comes \(nextUpdate\).*--renew-crl",
    ),
    "other name": (
        lambda ca, other: Authority.root("Somebody").revoke(),
        r"of another authority: Somebody is not in .*ca\.pem",
    ),
    "other key": (
        lambda ca, other: other.revoke(),
        "of another authority: TeleWorker CA, .* with another key",
    ),
    "one too many": (
        lambda ca, other: ca.revoke() + other.revoke(),
        "of another authority",
    ),
    "twice": (
        lambda ca, other: ca.revoke() + ca.revoke(),
        "has two lists of TeleWorker CA; keep the newer one alone",
    ),
    "changes": (
        lambda ca, other: ca.revoke(extensions=[(x509.DeltaCRLIndicator(1), True)]),
        "only a part of a list, or the changes of one",
    ),
    "certificate": (
        lambda ca, other: ca.revoke() + other.pem,
        "there is a CERTIFICATE in it",
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_list(directory: Path, name: str) -> None:
    """A list that would keep everybody out is refused, with what is to be done."""
    make, words = LISTS[name]
    revoked = make(authority_of(directory), Authority.root("TeleWorker CA"))
    (directory / "crl.pem").write_bytes(revoked)

    message = refusal(directory)

    assert message.startswith(f"{directory / 'crl.pem'} ")
    assert re.search(words, message)


def test_list_by_one_who_may_not(tmp_path: Path) -> None:
    """A list of an authority whose key is not for lists is refused."""
    root = Authority.root(usages=("key_cert_sign",))
    directory_of(tmp_path, root.server(), root, lists=root.revoke())

    assert "lacks cRLSign" in refusal(tmp_path)


def test_authority_without_a_list(tmp_path: Path) -> None:
    """With two authorities, a list of one keeps the clients of the other out."""
    one, two = Authority.root("One"), Authority.root("Two")
    directory_of(tmp_path, one.server(), one, two, lists=one.revoke())
    message = refusal(tmp_path)
    (tmp_path / "crl.pem").write_bytes(one.revoke() + two.revoke())

    context = server_context(read_files(tmp_path))

    assert "has no list of Two, so nobody with a certificate of that" in message
    assert context.cert_store_stats()["crl"] == 2


@pytest.mark.parametrize(
    "odd", [{"purposes": SERVER}, {"begins": -2 * DAY, "ends": -DAY}]
)
def test_authority_that_needs_no_list(tmp_path: Path, odd: dict[str, Any]) -> None:
    """One whose clients are not let in anyway needs none."""
    one, two = Authority.root("One"), Authority.root("Two", **odd)
    directory_of(tmp_path, one.server(), one, two, lists=one.revoke())

    server_context(read_files(tmp_path))


def test_list_of_an_intermediate(tmp_path: Path) -> None:
    """A root that has issued another authority is not expected to issue clients."""
    root = Authority.root()
    below = root.authority("below")
    directory_of(tmp_path, root.server(), root, below, lists=below.revoke())

    server_context(read_files(tmp_path))


def test_renewed_authority_and_its_list(tmp_path: Path) -> None:
    """Both certificates of an authority with one key have one list."""
    old = Authority.root(ends=2 * DAY)
    new = Authority.root(key=old.key)
    directory_of(tmp_path, old.server(), old, new, lists=new.revoke())

    server_context(read_files(tmp_path))


def verdict(code: int, message: str) -> ssl.SSLCertVerificationError:
    """Return what OpenSSL says of a client's certificate."""
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, message
    return error


@pytest.mark.parametrize("code", range(2, 95))
def test_every_verdict(code: int) -> None:
    """Every code of OpenSSL's has its own words in it, and one kind."""
    error = verdict(code, "the words of OpenSSL")

    assert "the words of OpenSSL" in describe(error)
    assert describe(error).isprintable()
    assert classify(error) in {Refusal.CERTIFICATE, Refusal.REVOCATION_LIST}


def test_list_that_ended_meanwhile() -> None:
    """When the list ends while we serve, that is said to be the server's matter."""
    error = verdict(12, "CRL has expired")

    assert describe(error) == (
        "the server's own revocation list (CRL), crl.pem, keeps everybody of the"
        " client's authority out: CRL has expired; make a new one with"
        " 'gen_certs.sh --renew-crl', and reload"
    )
    assert classify(error) is Refusal.REVOCATION_LIST


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionResetError(), "the client went away during the handshake"),
        (ConnectionAbortedError("too long"), "handshake: too long"),
        (ssl.SSLError(1, "odd"), "no TLS handshake"),
        (OSError(5, "input"), "input"),
        (ValueError(), "ValueError"),
    ],
)
def test_description(error: BaseException, words: str) -> None:
    """Every failure has a few words, even one without any of its own."""
    assert words in describe(error)
