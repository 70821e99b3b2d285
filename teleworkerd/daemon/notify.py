"""Tells a service manager how we are, by the protocol of sd_notify(3)."""

import asyncio
import os
import socket
import time
from collections import deque
from typing import Final


READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
WATCHDOG: Final = "WATCHDOG=1"

_AGAIN: Final = 0.1  # seconds until a manager that does not read is tried again

# What it has not taken yet; the oldest goes where there is too much.
_waiting: Final[deque[bytes]] = deque(maxlen=32)


def notify(*states: str) -> None:
    """Send *states*, like READY=1, to NOTIFY_SOCKET if there is one.

    Never waits: a manager that does not read gets them later, in order, if a loop
    runs here.
    """
    told = "\n".join(states).encode()

    if _waiting:
        _waiting.append(told)
    elif not _send(told):
        _waiting.append(told)
        _try_later()


def _try_later() -> None:
    try:
        asyncio.get_running_loop().call_later(_AGAIN, _try_again)
    except RuntimeError:
        _waiting.clear()


def _try_again() -> None:
    while _waiting and _send(_waiting[0]):
        _waiting.popleft()

    if _waiting:
        _try_later()


def _send(told: bytes) -> bool:
    """Send *told*, if there is anybody; return false if that would have to wait."""
    address = os.environ.get("NOTIFY_SOCKET")

    if not address:
        return True

    # An abstract address is written with an @ where the kernel has a NUL.
    if address.startswith("@"):
        address = "\0" + address[1:]

    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(told, socket.MSG_DONTWAIT, address)
    except BlockingIOError:
        return False
    except OSError:
        return True

    return True


def reloading() -> tuple[str, str]:
    """Return the states that begin a reload; `READY` ends it."""
    return "RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"


def status(text: str) -> str:
    """Return the state that shows *text* to who asks the service manager."""
    return f"STATUS={text.replace(chr(10), ' ')}"
