"""The sockets that clients connect to: made here, or given by a service manager."""

import os
import socket
import stat
from collections.abc import MutableMapping, Sequence
from typing import Final

from teleworkerd.settings import Address, ConfigError


_FIRST: Final = 3  # the descriptor that a service manager's begin with


class Listeners:
    """What servers accept clients from; *are_given* says that others have it too."""

    def __init__(
        self, sockets: Sequence[socket.socket], *, are_given: bool = False
    ) -> None:
        self.sockets = tuple(sockets)
        self.are_given = are_given
        self._is_paused = False

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where they listen, the first one first."""
        return tuple(map(_address_of, self.sockets))

    def pause(self) -> None:
        """Refuse clients, but keep the ports; who is about to be accepted is cut off.

        What a service manager has given goes on: there, clients wait.
        """
        if not self.are_given and not self._is_paused:
            self._is_paused = True

            for sock in self.sockets:
                sock.shutdown(socket.SHUT_RDWR)

    def resume(self, backlog: int) -> None:
        """Take clients again after a `pause`; raises `OSError`."""
        if not self._is_paused:
            return

        for sock in self.sockets:
            try:
                sock.listen(backlog)
            except OSError as error:
                why = f"cannot listen on {_address_of(sock)}: {error.strerror}"
                raise OSError(error.errno, why) from error

        self._is_paused = False

    def close(self) -> None:
        """Have no part in them any more."""
        for sock in self.sockets:
            sock.close()


def listen(
    address: Address, backlog: int, *, remedy: str = "choose another with --listen"
) -> Listeners:
    """Return a listening socket for each address of the host.

    With port 0 all have the same free one. Raises `ConfigError`, with a *remedy*.
    """
    try:
        found = socket.getaddrinfo(
            address.host,
            address.port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
    except (OSError, ValueError) as error:
        # A name that cannot even be looked up is a ValueError.
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"cannot listen on {address}: {why}") from error

    sockets: list[socket.socket] = []
    port = address.port

    try:
        for family, _, _, _, target in found:
            sock = _bind(family, (target[0], port, *target[2:]))
            sockets.append(sock)
            sock.listen(backlog)
            port = sock.getsockname()[1]
    except OSError as error:
        for each in sockets:
            each.close()

        raise ConfigError(
            f"cannot listen on {address}: {os.strerror(error.errno or 0)}; {remedy}"
        ) from error

    return Listeners(sockets)


def given(environ: MutableMapping[str, str] = os.environ) -> Listeners | None:
    """Return the listeners that a service manager has given us; None if it has not.

    Takes what says so, as in sd_listen_fds(3), out of *environ*. Raises
    `ConfigError` for what is no TCP socket that listens.
    """
    pid = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")

    for name in ("LISTEN_FDNAMES", "LISTEN_PIDFDID"):
        environ.pop(name, None)

    if pid != str(os.getpid()):
        return None

    if not count.isdecimal() or not int(count):
        raise ConfigError(
            f"LISTEN_FDS={count!r} is no number of sockets; set it to how many there"
            " are from descriptor 3 on, or take LISTEN_PID away"
        )

    numbers = range(_FIRST, _FIRST + int(count))

    for number in numbers:
        _check_given(number)

    return Listeners(
        [socket.socket(fileno=number) for number in numbers], are_given=True
    )


def _bind(family: int, target: tuple[object, ...]) -> socket.socket:
    """Return a socket that keeps its port through a `pause`."""
    sock = _bind_once(family, target)

    try:
        if target[1] == 0:
            # The kernel would take a port back that it has chosen itself.
            with sock:
                chosen = sock.getsockname()[1]
                return _bind_once(family, (target[0], chosen, *target[2:]))
    except OSError:
        sock.close()
        raise

    return sock


def _bind_once(family: int, target: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)

    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(target)
    except OSError:
        sock.close()
        raise

    return sock


def _check_given(number: int) -> None:
    what = f"descriptor {number}, which LISTEN_FDS counts,"

    try:
        is_socket = stat.S_ISSOCK(os.fstat(number).st_mode)
    except (OSError, OverflowError):
        raise ConfigError(f"{what} is not open") from None

    if not is_socket:
        raise ConfigError(f"{what} is not a socket")

    os.set_inheritable(number, False)
    sock = socket.socket(fileno=number)

    try:
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            raise ConfigError(f"{what} is not a TCP socket; use ListenStream=PORT")

        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) != socket.SOCK_STREAM:
            raise ConfigError(f"{what} is not a TCP socket; use ListenStream=PORT")

        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ConfigError(f"{what} does not listen; use Accept=no")
    finally:
        sock.detach()


def _address_of(sock: socket.socket) -> str:
    host, port, *_ = sock.getsockname()
    return str(Address(host, port))
