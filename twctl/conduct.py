"""How our client behaves: what it calls itself, and how long it waits for whom."""

import socket
from typing import Final

from teleworkerd import __version__


AGENT: Final = f"twctl/{__version__}"

CONNECT_TIMEOUT: Final = 10.0  # seconds, for TCP and for TLS each
HELLO_TIMEOUT: Final = 10.0  # seconds until the server has to have spoken
PING_AFTER: Final = 15.0  # seconds of silence; keeps NAT entries alive as well
LOST_AFTER: Final = 40.0  # seconds of silence, so two pings without a response

KEEPALIVE_IDLE: Final = 30  # seconds; for whoever does not ping just now
KEEPALIVE_INTERVAL: Final = 10  # seconds
KEEPALIVE_PROBES: Final = 3
UNACKNOWLEDGED: Final = 30_000  # milliseconds; less than LOST_AFTER, and says why

_GONE: Final = (7, 8)  # TCP_CLOSE and TCP_CLOSE_WAIT, as TCP_INFO begins
_OPTIONS: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)


def is_gone(sock: socket.socket) -> bool:
    """Whether the peer has gone; the loop tells of a lost connection later."""
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _GONE
    except OSError:
        return True


def prepare_socket(sock: socket.socket) -> None:
    """Have the kernel notice a peer that is gone, and send what is small at once."""
    for option in _OPTIONS:
        sock.setsockopt(*option)
