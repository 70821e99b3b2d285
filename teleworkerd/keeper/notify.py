"""Tells a service manager how we are, by the protocol of sd_notify(3)."""

import contextlib
import os
import socket
from typing import Final


_PATIENCE: Final = 1.0  # seconds for a manager that does not read


def notify(state: str) -> None:
    """Send *state*, like READY=1, to NOTIFY_SOCKET if there is one."""
    address = os.environ.get("NOTIFY_SOCKET")

    if not address:
        return

    # An abstract address is written with an @ where the kernel has a NUL.
    if address.startswith("@"):
        address = "\0" + address[1:]

    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
    ):
        sock.settimeout(_PATIENCE)
        sock.sendto(state.encode(), address)
