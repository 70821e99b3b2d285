"""How a process that may open the certificate files gives them to one that may not.

Descriptors go over a socket pair that keeps messages apart (SOCK_SEQPACKET); what is
sent before anything is said elsewhere is there when that is heard.
"""

import json
import os
import socket
from pathlib import Path
from typing import Final

from teleworkerd.certfiles import (
    CertificateFileError,
    CertificateFiles,
    OpenFiles,
    read_open,
)
from teleworkerd.settings import ConfigError


_MOST: Final = 16 << 10  # bytes of a message
_TIMEOUT: Final = 5.0  # seconds
_FILES: Final = 8  # descriptors that come with it


def pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends; raises `OSError`."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def give(sock: socket.socket, directory: Path) -> None:
    """Give what is in *directory* to the other end, or say why it cannot be used.

    Nobody at the other end is no error.
    """
    try:
        with OpenFiles(directory) as files:
            _send(sock, files.descriptors, directory=str(directory))
    except ConfigError as error:
        _send(sock, {}, error=str(error))


def take(sock: socket.socket) -> CertificateFiles:
    """Return the files that the other end has given.

    Raises `CertificateFileError` if it could not, or has gone.
    """
    # What was given is there already.
    sock.settimeout(_TIMEOUT)

    try:
        data, descriptors, _, _ = socket.recv_fds(
            sock, _MOST, _FILES, socket.MSG_CMSG_CLOEXEC
        )
    except OSError as error:
        raise CertificateFileError(
            f"the certificate files were not handed over: {error.strerror}"
        ) from error

    try:
        said = json.loads(data or b"{}")

        if "directory" not in said:
            raise CertificateFileError(
                said.get("error", "the certificate files were not handed over")
            )

        named = dict(zip(said["names"], descriptors, strict=True))
        return read_open(Path(said["directory"]), named)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _send(sock: socket.socket, files: dict[str, int], **said: str) -> None:
    data = json.dumps({"names": list(files), **said}).encode()

    try:
        socket.send_fds(sock, [data], list(files.values()), socket.MSG_DONTWAIT)
    except OSError:
        # It has ended, and the next one is given them anew.
        return
