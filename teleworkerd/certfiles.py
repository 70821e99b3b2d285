"""The certificate files: opened and checked by whoever may, read by whoever needs them.

The two need not be the same process: a descriptor goes from one to the other.
"""

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from teleworkerd.settings import ConfigError
from teleworkerd.trusted import check_trusted


CA: Final = "ca.pem"
CERTIFICATE: Final = "server.pem"
KEY: Final = "server-key.pem"
REVOCATIONS: Final = "crl.pem"

_NEEDED: Final = (CA, CERTIFICATE, KEY)
_MOST: Final = 64 << 20  # bytes; a revocation list may be long


class CertificateFileError(ConfigError):
    """A certificate file is not there, or not as it must be; says which and why."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """What the files in *directory* hold; without a list nobody is revoked."""

    directory: Path
    ca: bytes
    certificate: bytes
    key: bytes
    revocations: bytes | None = None

    def path(self, name: str) -> Path:
        """Return where the file *name* is, for messages."""
        return self.directory / name


class OpenFiles:
    """Descriptors of the files in *directory*, by their names; closed at the end.

    Raises `ConfigError` for one that is missing or that others may write, and for a key
    that anybody but its owner may read.
    """

    def __init__(self, directory: Path) -> None:
        self.descriptors: dict[str, int] = {}
        self._directory = directory

        try:
            with suppress(OSError):  # said of the first file, with what to do
                check_trusted(directory, directory.stat())

            for name in _NEEDED:
                self.descriptors[name] = self._open(name)

            self._check_key()

            if _is_there(directory / REVOCATIONS):
                self.descriptors[REVOCATIONS] = self._open(REVOCATIONS)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all of them; twice is no harm."""
        while self.descriptors:
            os.close(self.descriptors.popitem()[1])

    def _open(self, name: str) -> int:
        path = self._directory / name

        try:
            # Not to wait for the writer of a pipe that somebody put there.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise CertificateFileError(_missing(path)) from None
        except OSError as error:
            raise CertificateFileError(
                f"{path} cannot be read: {error.strerror}"
            ) from error

        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise CertificateFileError(f"{path} is not a file")

            if name != KEY:  # there is a stricter word on that
                check_trusted(path, os.fstat(fd))
        except ConfigError:
            os.close(fd)
            raise

        return fd

    def _check_key(self) -> None:
        """Look at the file that is open: what its name leads to may change."""
        path = self._directory / KEY
        found = os.fstat(self.descriptors[KEY])

        if found.st_uid not in (0, os.geteuid()):
            raise CertificateFileError(
                f"{path} belongs to another account, with the id {found.st_uid};"
                f" 'chown {os.geteuid()} {path}'"
            )

        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise CertificateFileError(
                f"{path} is open to others than its owner; 'chmod 600 {path}'"
            )


def read_open(directory: Path, descriptors: Mapping[str, int]) -> CertificateFiles:
    """Return what is in *descriptors*, which are files of *directory* by their names.

    Raises `CertificateFileError`.
    """
    content = {
        name: _read(directory / name, descriptor)
        for name, descriptor in descriptors.items()
    }
    return CertificateFiles(
        directory,
        ca=content[CA],
        certificate=content[CERTIFICATE],
        key=content[KEY],
        revocations=content.get(REVOCATIONS),
    )


def read_files(directory: Path) -> CertificateFiles:
    """Return what is in the files of *directory*; raises `CertificateFileError`."""
    with OpenFiles(directory) as files:
        return read_open(directory, files.descriptors)


def _is_there(path: Path) -> bool:
    """Whether *path* names anything, a link that leads nowhere included."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError:
        # To open it tells why not; a list must not be passed over.
        return True

    return True


def _missing(path: Path) -> str:
    if path.is_symlink():
        return f"{path} is a link to {path.readlink()}, which does not exist"

    return (
        f"{path} does not exist; make it with gen_certs.sh, or give another"
        " directory with --certs"
    )


def _read(path: Path, descriptor: int) -> bytes:
    try:
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(_MOST + 1)
    except OSError as error:
        raise CertificateFileError(
            f"{path} cannot be read: {error.strerror}"
        ) from error

    if len(content) > _MOST:
        raise CertificateFileError(f"{path} has more than {_MOST >> 20} MiB")

    return content
