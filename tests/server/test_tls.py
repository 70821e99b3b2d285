"""The server's context: what it insists on, and which file is wrong."""

import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Final

import pytest

from teleworkerd.server.tls import TlsError, describe, server_context
from tests.e2e.pki import Certificates, revoke


FILES: Final = ("ca.pem", "server.pem", "server-key.pem")


@pytest.fixture
def directory(certs: Certificates, tmp_path: Path) -> Path:
    """Copies of the server's files, to be spoilt."""
    for name in (*FILES, "ca-key.pem", "alice.pem", "alice-key.pem"):
        shutil.copy(certs.directory / name, tmp_path)

    return tmp_path


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
    context = server_context(directory)

    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.num_tickets == 0
    assert not context.verify_flags & ssl.VERIFY_CRL_CHECK_LEAF


def test_only_our_ca(directory: Path) -> None:
    """The authorities of the system vouch for nobody."""
    assert len(server_context(directory).get_ca_certs()) == 1


def test_revocations(directory: Path) -> None:
    """A crl.pem that is there is used."""
    shutil.copy(directory / "alice.pem", directory / "bob.pem")
    revoke(Certificates(directory), "alice")
    context = server_context(directory)

    assert context.verify_flags & ssl.VERIFY_CRL_CHECK_LEAF
    assert context.cert_store_stats()["crl"] == 1


@pytest.mark.parametrize("name", FILES)
def test_missing(directory: Path, name: str) -> None:
    """A missing file is named, with where to get it from."""
    (directory / name).unlink()

    with pytest.raises(TlsError, match=rf"{name} does not exist; .*gen_certs\.sh"):
        server_context(directory)


@pytest.mark.parametrize("name", FILES)
def test_directory_in_its_place(directory: Path, name: str) -> None:
    """So is one that cannot be read."""
    (directory / name).unlink()
    (directory / name).mkdir()

    with pytest.raises(TlsError, match=rf"{name} cannot be read: Is a directory"):
        server_context(directory)


@pytest.mark.parametrize("text", ["", "nonsense\n"])
@pytest.mark.parametrize("name", [*FILES, "crl.pem"])
def test_nonsense(directory: Path, name: str, text: str) -> None:
    """So is one that holds nothing of use."""
    (directory / name).write_text(text)

    with pytest.raises(TlsError, match=f"{name}.* cannot be used"):
        server_context(directory)


def test_key_of_another(directory: Path) -> None:
    """A key that does not fit its certificate is told as that."""
    shutil.copy(directory / "alice-key.pem", directory / "server-key.pem")

    with pytest.raises(
        TlsError, match=r"server-key\.pem is not the key of .*server\.pem"
    ):
        server_context(directory)


def test_encrypted_key(directory: Path) -> None:
    """A key with a passphrase is an error; nobody is asked at the terminal."""
    encrypt(directory)

    with pytest.raises(TlsError, match="without a passphrase"):
        server_context(directory)


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
