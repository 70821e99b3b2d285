"""Python's blocking `ssl` on loopback; `python -m bench.limits.tls DIRECTORY BYTES`.

Prints the seconds from connecting to the last byte.
"""

import os
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import Final

from bench.daemon import Certificates


BLOCK: Final = 256 << 10
LOOPBACK: Final = "127.0.0.1"


def main(directory: str, size: int) -> None:
    """Send *size* bytes from one process to another."""
    certificates = Certificates(Path(directory))

    with socket.create_server((LOOPBACK, 0)) as listener:
        sender = os.fork()

        if sender == 0:
            send(listener, certificates, size)
            os._exit(0)

        seconds = receive(listener.getsockname()[1], certificates, size)
        os.waitpid(sender, 0)

    sys.stdout.write(f"{seconds}\n")


def send(listener: socket.socket, certificates: Certificates, size: int) -> None:
    """Accept one connection and write *size* zeros to it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificates.ca)
    directory = certificates.directory
    context.load_cert_chain(directory / "server.pem", directory / "server-key.pem")
    block = memoryview(bytes(BLOCK))
    connection, _ = listener.accept()

    with context.wrap_socket(connection, server_side=True) as stream:
        for begin in range(0, size, BLOCK):
            stream.sendall(block[: size - begin])


def receive(port: int, certificates: Certificates, size: int) -> float:
    """Connect, read *size* bytes, and return the seconds that it took."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificates.ca)
    context.load_cert_chain(certificates.cert, certificates.key)
    buffer = bytearray(BLOCK)
    begin = time.perf_counter()

    with (
        socket.create_connection((LOOPBACK, port)) as connection,
        context.wrap_socket(connection, server_hostname=LOOPBACK) as stream,
    ):
        left = size

        while left:
            if not (count := stream.recv_into(buffer)):
                raise ConnectionError(f"{left} bytes of {size} are missing")

            left -= count

        return time.perf_counter() - begin


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
