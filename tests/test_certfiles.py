"""The certificate files: which are opened, and what must not be."""

import os
import shutil
from pathlib import Path
from typing import Final

import pytest

from teleworkerd.certfiles import CertificateFileError, OpenFiles, read_files
from tests.e2e.pki import Certificates


FILES: Final = ("ca.pem", "server.pem", "server-key.pem")


@pytest.fixture
def directory(certs: Certificates, tmp_path: Path) -> Path:
    """Copies of the server's files, to be spoilt."""
    for name in FILES:
        shutil.copy(certs.directory / name, tmp_path)

    return tmp_path


def refusal(directory: Path) -> str:
    """Return why the files are not taken; nothing stays open."""
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208  no need of paths

    with pytest.raises(CertificateFileError) as caught:
        read_files(directory)

    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208  no need of paths
    return str(caught.value)


def test_content(directory: Path) -> None:
    """What is in them is returned as it is; a list need not be there."""
    files = read_files(directory)

    assert files.ca == (directory / "ca.pem").read_bytes()
    assert files.certificate == (directory / "server.pem").read_bytes()
    assert files.key == (directory / "server-key.pem").read_bytes()
    assert files.revocations is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o666])
def test_key_open_to_others(directory: Path, mode: int) -> None:
    """A key that others may read, or write, is refused with the command to run."""
    key = directory / "server-key.pem"
    key.chmod(mode)

    assert f"'chmod 600 {key}'" in refusal(directory)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_key_of_its_own(directory: Path, mode: int) -> None:
    """One that is its owner's alone is taken."""
    (directory / "server-key.pem").chmod(mode)

    read_files(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_key_of_another_account(directory: Path) -> None:
    """A key that belongs to somebody else is refused: they may change it."""
    key = directory / "server-key.pem"
    os.chown(key, 12345, -1)

    message = refusal(directory)

    assert "belongs to another account, with the id 12345" in message
    assert f"'chown {os.geteuid()} {key}'" in message


def test_link(directory: Path) -> None:
    """A link is followed, as managers of certificates make them."""
    key = directory / "server-key.pem"
    target = key.rename(directory / "key-of-today.pem")
    key.symlink_to(target.name)

    assert read_files(directory).key == target.read_bytes()


def test_link_to_an_open_key(directory: Path) -> None:
    """What counts is the file that the link leads to."""
    key = directory / "server-key.pem"
    target = key.rename(directory / "key-of-today.pem")
    target.chmod(0o644)
    key.symlink_to(target.name)

    assert "is open to others" in refusal(directory)


@pytest.mark.parametrize("name", [*FILES, "crl.pem"])
def test_no_file(directory: Path, name: str) -> None:
    """A pipe or a directory in the place of a file is named, and not waited for."""
    (directory / name).unlink(missing_ok=True)
    os.mkfifo(directory / name, 0o600)
    assert f"{name} is not a file" in refusal(directory)

    (directory / name).unlink()
    (directory / name).mkdir()
    assert f"{name} is not a file" in refusal(directory)


@pytest.mark.parametrize("target", ["nowhere", "crl.pem"])
def test_list_that_a_link_does_not_find(directory: Path, target: str) -> None:
    """A list whose link leads nowhere is not taken for none: all would get in."""
    (directory / "crl.pem").symlink_to(target)

    assert "crl.pem" in refusal(directory)


def test_closed_twice(directory: Path) -> None:
    """To close them again is no harm."""
    files = OpenFiles(directory)
    files.close()
    files.close()

    assert files.descriptors == {}
