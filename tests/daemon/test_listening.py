"""Where a daemon listens, and how it stops and begins again there."""

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from teleworkerd.daemon.listening import Listeners, given, listen
from teleworkerd.settings import Address, ConfigError


@pytest.fixture(params=[0, 1], ids=["free port", "port by number"])
def listeners(request: pytest.FixtureRequest) -> Iterator[Listeners]:
    """Something that listens, at a port that was chosen for it, or by it."""
    listeners = listen(Address("127.0.0.1", 0), 5)

    if request.param:
        host, port = listeners.sockets[0].getsockname()
        listeners.close()
        listeners = listen(Address(host, port), 5)

    yield listeners
    listeners.close()


def connect(listeners: Listeners) -> socket.socket:
    """Return a client's connection."""
    return socket.create_connection(listeners.sockets[0].getsockname(), timeout=5)


def test_free_port() -> None:
    """Port 0 is a free one."""
    (sock,) = listen(Address("127.0.0.1", 0), 5).sockets

    with sock:
        host, port = sock.getsockname()
        assert host == "127.0.0.1"
        assert port > 0

        with socket.create_connection((host, port)):
            pass


def test_ipv6() -> None:
    """An address of version 6 works like any other."""
    (sock,) = listen(Address("::1", 0), 5).sockets

    with sock:
        assert sock.family is socket.AF_INET6


def test_one_port_for_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with several addresses has the same free port on each."""
    find = socket.getaddrinfo

    def both(_: str, port: int, **options: int) -> list[object]:
        return [*find("127.0.0.1", port, **options), *find("::1", port, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    listeners = listen(Address("localhost", 0), 5)
    ports = [sock.getsockname()[1] for sock in listeners.sockets]
    listeners.close()

    assert len(ports) == 2
    assert len(set(ports)) == 1


def test_port_that_is_taken() -> None:
    """A port in use is named, with the flag for another; nothing stays open."""
    before = os.listdir("/proc/self/fd")  # noqa: PTH208  numbers are all it is about

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with pytest.raises(ConfigError, match=rf":{port}: Address already .*--listen"):
            listen(Address("127.0.0.1", port), 5)

    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208  as above


@pytest.mark.parametrize(
    "host", ["no-such-host.invalid", "a..b", "x" * 70, "nul\0", "192.0.2.1", "é" * 70]
)
def test_address_that_is_not_ours(host: str) -> None:
    """A host that cannot be listened on is a sentence, not a traceback."""
    with pytest.raises(ConfigError, match="cannot listen on"):
        listen(Address(host, 0), 5)


def test_family_that_the_kernel_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without IPv6 is told of in the same way."""

    def lacking(*_: object) -> None:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr(socket, "socket", lacking)

    with pytest.raises(ConfigError, match="Address family not supported"):
        listen(Address("::1", 0), 5)


def test_pause(listeners: Listeners) -> None:
    """While it pauses clients are refused, and nobody else can have the port."""
    address = listeners.sockets[0].getsockname()
    listeners.pause()
    listeners.pause()

    with pytest.raises(ConnectionRefusedError):
        connect(listeners)

    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(address)

    assert listeners.sockets[0].getsockname() == address


def test_resume(listeners: Listeners) -> None:
    """After the pause it listens where it did."""
    (before,) = listeners.addresses
    listeners.resume(5)
    listeners.pause()
    listeners.resume(5)

    with connect(listeners) as client:
        accepted, address = listeners.sockets[0].accept()
        accepted.close()

        assert client.getsockname() == address

    assert listeners.addresses == (before,)


def test_port_that_was_taken_meanwhile(listeners: Listeners) -> None:
    """If somebody could have the port all the same, the message names it."""
    address = listeners.sockets[0].getsockname()
    listeners.pause()

    # It sets SO_REUSEADDR, as we do.
    with (
        socket.create_server(address),
        pytest.raises(OSError, match=f"{address[1]}: Address already in use"),
    ):
        listeners.resume(5)

    listeners.resume(5)
    connect(listeners).close()


def test_waiting_at_a_socket_that_is_shared(listeners: Listeners) -> None:
    """What others have as well is never shut: there, clients wait."""
    given = Listeners(listeners.sockets, are_given=True)
    given.pause()
    connect(listeners).close()
    given.resume(5)
    connect(listeners).close()


@pytest.mark.parametrize("pid", ["", "1", "x"])
def test_given_to_another(pid: str) -> None:
    """What is meant for another process is not taken, and not passed on either."""
    environ = {
        "LISTEN_PID": pid,
        "LISTEN_FDS": "1",
        "LISTEN_FDNAMES": "x",
        "LISTEN_PIDFDID": "1",
        "OTHER": "y",
    }

    assert given(environ) is None
    assert environ == {"OTHER": "y"}


@pytest.mark.parametrize("count", ["", "0", "-1", "x", "1000000"])
def test_given_nothing(count: str) -> None:
    """A count that is none, or is too high, is an error."""
    with pytest.raises(ConfigError, match="LISTEN_FDS"):
        given({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count})
