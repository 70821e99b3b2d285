"""The other end of a connection: its address, and whether it is still there."""

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from typing import Any, Final


_GONE: Final = (7, 8)  # TCP_CLOSE and TCP_CLOSE_WAIT, as TCP_INFO begins
_NETWORK: Final = 64  # bits of an IPv6 address that are not the host's to choose


@dataclass(frozen=True, slots=True)
class Peer:
    """Where a client is: its `address` as people write it, and its `source`.

    The source is what counts as one place: an address of IPv4, a network of IPv6.
    """

    address: str
    source: str

    def __str__(self) -> str:
        return self.address


UNKNOWN: Final = Peer("?", "?")


def peer_of(address: tuple[Any, ...] | None) -> Peer:
    """Return whose *address*, as a socket tells it, that is."""
    if not address:
        return UNKNOWN

    host, port, *_ = address

    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return Peer(f"{host}:{port}", str(host))

    if isinstance(parsed, ipaddress.IPv4Address):
        return Peer(f"{host}:{port}", host)

    if (mapped := parsed.ipv4_mapped) is not None:
        return Peer(f"{mapped}:{port}", str(mapped))

    return Peer(f"[{host}]:{port}", _network_of(parsed))


def is_gone(transport: asyncio.Transport) -> bool:
    """Whether nothing arrives any more; the loop tells of a lost connection later.

    It does not tell at all while the peer, which has closed, does not read.
    """
    if transport.is_closing():
        return True

    try:
        sock = transport.get_extra_info("socket")
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _GONE
    except OSError:
        return True


def bound_kernel_buffer(transport: asyncio.BaseTransport, size: int) -> None:
    """Let the kernel hold *size* bytes for the peer, and no more."""
    sock = transport.get_extra_info("socket")

    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)


def _network_of(address: ipaddress.IPv6Address) -> str:
    bits = address.max_prefixlen - _NETWORK
    network = ipaddress.IPv6Address(int(address) >> bits << bits)
    scope = f"%{address.scope_id}" if address.scope_id else ""
    return f"{network}{scope}/{_NETWORK}"
