"""Where a host is: looked up on threads that nobody has to wait for.

The resolver of the C library cannot be interrupted: Ctrl-C would be heard, and a
deadline kept, only when it has come to its end.
"""

import _thread
import errno
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from twctl.conduct import CONNECT_TIMEOUT
from twctl.profile import Profile


Address: TypeAlias = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]
Addresses: TypeAlias = Sequence[Address]

_LEAST: Final = 0.01  # seconds
_TOO_LATE: Final = f"no answer within {CONNECT_TIMEOUT:.0f} s"


def look_up(profile: Profile) -> Addresses:
    """Return where the server may be; raises `OSError`."""
    found: list[Addresses | OSError] = []
    ended = _thread.allocate_lock()
    ended.acquire()

    def done(result: Addresses | OSError) -> None:
        found.append(result)
        ended.release()

    begin_lookup(profile, done)

    if not ended.acquire(timeout=CONNECT_TIMEOUT):
        raise too_late()

    if isinstance(found[0], OSError):
        raise found[0]

    return found[0]


def begin_lookup(profile: Profile, done: Callable[[Addresses | OSError], None]) -> None:
    """Have *done* called, on another thread, with what is found or what went wrong.

    Raises `OSError` when there can be no thread.
    """

    def work() -> None:
        try:
            result: Addresses | OSError = _resolve(profile)
        except OSError as error:
            result = error

        done(result)

    try:
        _thread.start_new_thread(work, ())
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from error


def attempts(addresses: Addresses) -> Iterator[tuple[Address, float]]:
    """Yield each of *addresses*, and for how many seconds to try to connect there.

    One that does not answer leaves time for the others, of `CONNECT_TIMEOUT` in all.
    """
    deadline = time.monotonic() + CONNECT_TIMEOUT

    for number, address in enumerate(addresses):
        left = deadline - time.monotonic()
        yield address, max(_LEAST, left / (len(addresses) - number))


def too_late() -> socket.gaierror:
    """Return what to raise when nothing was found in time."""
    return socket.gaierror(socket.EAI_AGAIN, _TOO_LATE)


def _resolve(profile: Profile) -> Addresses:
    # Of a text, ASCII too, it would look up how IDNA writes it, and import that.
    host = profile.host.encode() if profile.host.isascii() else profile.host

    try:
        return socket.getaddrinfo(host, profile.port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, f"no such name: {error}") from error
