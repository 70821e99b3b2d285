"""Handshakes that are begun and not ended: who gives way, and that others get in."""

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from teleworkerd.certfiles import read_files
from teleworkerd.counters import Refusal
from teleworkerd.server.doors import HalfOpen
from teleworkerd.server.peer import UNKNOWN, peer_of
from teleworkerd.server.tls import server_context
from tests.e2e.pki import Certificates, generate
from tests.server.peers import (
    Peers,
    Server,
    client_context,
    descriptors,
    serving,
    until,
)


RESET: bytes = struct.pack("ii", 1, 0)  # of SO_LINGER


def entered(*sources: str) -> HalfOpen[int]:
    """Return handshakes of *sources*, numbered as they came."""
    doors: HalfOpen[int] = HalfOpen()

    for number, source in enumerate(sources):
        doors.enter(source, number)

    return doors


def test_room() -> None:
    """While there is room, nobody is in the way."""
    doors = entered("a", "a", "b")

    assert doors.in_the_way("a", most=4, most_per_source=3) is None


def test_own_share() -> None:
    """A source that has its share makes room itself, by its oldest."""
    doors = entered("b", "a", "a", "b", "b")

    assert doors.in_the_way("a", most=100, most_per_source=2) == 1


def test_largest_source() -> None:
    """When all is full, it is the source with the most that makes room."""
    doors = entered("a", "b", "b", "c")

    assert doors.in_the_way("a", most=4, most_per_source=3) == 1
    assert doors.in_the_way("new", most=4, most_per_source=3) == 1


def test_oldest_of_many_sources() -> None:
    """Where each has one, the oldest makes room."""
    doors = entered("a", "b", "c")

    assert doors.in_the_way("new", most=3, most_per_source=2) == 0


def test_leave() -> None:
    """Who has left is not in the way; twice is no harm, and nothing is kept."""
    doors = entered("a", "a")

    for _ in range(2):
        doors.leave("a", 0)

    assert len(doors) == 1
    assert doors.in_the_way("a", most=9, most_per_source=1) == 1
    doors.leave("a", 1)
    doors.leave("nobody", 1)
    assert len(doors) == 0
    assert doors._by_source == {}


@pytest.mark.parametrize(
    ("host", "address", "source"),
    [
        ("203.0.113.9", "203.0.113.9:5", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9:5", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "[2001:db8:1:2:3:4:5:6]:5", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "[2001:db8:1:2::9]:5", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::9", "[2001:db8:1:3::9]:5", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "[fe80::1%eth0]:5", "fe80::%eth0/64"),
        ("::1", "[::1]:5", "::/64"),
        ("somewhere", "somewhere:5", "somewhere"),
    ],
)
def test_source(host: str, address: str, source: str) -> None:
    """An address of version 4 is a source, also within one of 6; of 6 its network."""
    peer = peer_of((host, 5))

    assert (str(peer), peer.source) == (address, source)


def test_no_address() -> None:
    """A socket that does not say anything has a peer all the same."""
    assert peer_of(None) is UNKNOWN


@contextmanager
def strangers(server: Server, *sources: str) -> Iterator[list[socket.socket]]:
    """Connect from *sources*, and say nothing."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                socket.create_connection(
                    ("127.0.0.1", server.port), timeout=10, source_address=(source, 0)
                )
            )
            for source in sources
        ]


async def ended(raw: socket.socket) -> bool:
    """Wait for the end of a connection; return whether nothing came before it."""
    try:
        return await asyncio.to_thread(raw.recv, 1) == b""
    except ConnectionResetError:
        return True


def is_open(raw: socket.socket) -> bool:
    """Whether the other end has not closed."""
    raw.setblocking(False)

    try:
        return raw.recv(1) != b""
    except BlockingIOError:
        return True


async def test_oldest_of_the_source(
    certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """One more of a source that has its share: its oldest is closed, and counted."""
    async with serving(certs, half_open_per_source=2) as server:
        sources = ["127.0.0.2", "127.0.0.3", "127.0.0.2", "127.0.0.2"]

        with strangers(server, *sources) as (first, other, second, third):
            oldest = first.getsockname()[1]
            assert await ended(first)
            await until(lambda: len(server.listener._doors) == 3, what="the others")

            assert all(map(is_open, (other, second, third)))

    assert server.counters.refusals[Refusal.CROWDED] == 1
    assert f"refused 127.0.0.2:{oldest}: too many handshakes under way" in caplog.text


async def test_oldest_of_the_largest_source(certs: Certificates) -> None:
    """When all is full, the source that has the most makes room for another."""
    async with serving(certs, half_open=4, half_open_per_source=3) as server:
        sources = ["127.0.0.3", "127.0.0.2", "127.0.0.2", "127.0.0.4", "127.0.0.5"]

        with strangers(server, *sources) as (alone, first, *others):
            assert await ended(first)
            await until(lambda: len(server.listener._doors) == 4, what="the others")

            assert all(map(is_open, (alone, *others)))


async def test_lower_bound(certs: Certificates) -> None:
    """A bound that was lowered holds as soon as somebody comes."""
    async with serving(certs) as server:
        with strangers(server, *["127.0.0.2"] * 5):
            await until(lambda: len(server.listener._doors) == 5, what="the five")
            async with serving(certs, half_open_per_source=2) as lower:
                server.listener.use(lower.listener._context, lower.config.server)

            with strangers(server, "127.0.0.2"):
                await until(lambda: len(server.listener._doors) == 2, what="the bound")
                await until(
                    lambda: len(server.listener._handshakes) == 2, what="their end"
                )


@pytest.mark.slow
async def test_good_client_in_a_flood(certs: Certificates) -> None:
    """Whoever shakes hands gets in, though the same address floods us meanwhile."""
    got_in = 0
    over = asyncio.Event()

    async def flood(server: Server) -> None:
        with ExitStack() as stack:
            while not over.is_set():
                raw = stack.enter_context(socket.socket())
                raw.setblocking(False)
                raw.connect_ex(("127.0.0.1", server.port))
                await asyncio.sleep(0.001)

    async with serving(certs, half_open_per_source=32) as server:
        flooding = asyncio.create_task(flood(server))
        await until(lambda: server.counters.refusals[Refusal.CROWDED], what="a flood")

        async with Peers() as peers:
            for _ in range(20):
                await peers.connect(server, certs)
                got_in += 1

        over.set()
        await flooding

    assert got_in == 20


async def test_nothing_is_left_of_them(certs: Certificates) -> None:
    """Who has given way leaves no descriptor, with however much of a handshake."""
    async with serving(certs, half_open_per_source=1) as server:
        await until(lambda: server.listener._accepting, what="the listener")
        before = descriptors()

        for data in (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01") * 5:
            with socket.create_connection(("127.0.0.1", server.port)) as raw:
                raw.sendall(data)
                await until(lambda: server.listener._doors, what="the handshake")

                with socket.create_connection(("127.0.0.1", server.port), timeout=10):
                    assert await ended(raw)

        await until(lambda: not server.listener._handshakes, what="the end")
        await until(lambda: descriptors() <= before, what="the descriptors' end")


async def test_gives_way_before_it_began(certs: Certificates) -> None:
    """Of two that come at the same instant, the one without room is closed as well."""
    async with serving(certs, half_open_per_source=1) as server:
        with socket.create_server(("127.0.0.1", 0)) as other:
            ends = [socket.create_connection(other.getsockname()) for _ in range(2)]

            for _ in ends:
                sock, address = other.accept()
                sock.setblocking(False)
                server.listener._let_in(sock, peer_of((address[0], 1)))

            ends[0].settimeout(10)
            assert await ended(ends[0])
            assert is_open(ends[1])

            for end in ends:
                end.close()

    assert server.counters.refusals[Refusal.CROWDED] == 1


@pytest.mark.slow
async def test_slow_hello(certs: Certificates) -> None:
    """A byte now and then does not prolong a handshake; others do not wait for it."""
    async with serving(certs, handshake_timeout=2) as server, Peers() as peers:
        hello = bytes.fromhex("1603010200010001fc0303") + bytes(100)

        with strangers(server, "127.0.0.2") as (raw,):
            start = asyncio.get_running_loop().time()
            raw.setblocking(False)
            closed = False

            for byte in hello:
                raw.send(bytes([byte]))
                await asyncio.sleep(0.05)

                if closed := not is_open(raw):
                    break

                await peers.connect(server, certs)

            took = asyncio.get_running_loop().time() - start

    assert closed
    assert 1.8 < took < 8


@pytest.mark.slow
async def test_first_byte_is_late(
    certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """Who says nothing at all costs no TLS, and the log says what it did not do."""
    async with serving(certs, handshake_timeout=0.3) as server:
        with strangers(server, "127.0.0.2") as (raw,):
            assert await ended(raw)

    assert "went away during the handshake: it sent nothing in 0.3 s" in caplog.text
    assert server.counters.refusals[Refusal.GONE] == 1


def reset(port: int) -> None:
    """Connect and be gone with a reset."""
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


@pytest.mark.slow
async def test_summed_up(certs: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    """What a source does again and again is told once, then by a number."""
    async with serving(certs, period=0.5, handshake_timeout=2.0) as server:
        for _ in range(30):
            await asyncio.to_thread(reset, server.port)

        await until(
            lambda: server.counters.refusals[Refusal.GONE] == 30, what="refusals"
        )
        await until(lambda: "more times" in caplog.text, what="the sum")
        # A reset may come before the connection is ours, or after.
        told = sum(count for *_, count in server.noted)
        lines = [line for line in caplog.messages if line.startswith("refused ")]

    assert told == 30
    assert len(lines) <= 2 * len({line.partition(": ")[2] for line in lines})
    assert {by.peer.partition(":")[0] for by, *_ in server.noted} == {"127.0.0.1"}


async def test_dual_stack(certs: Certificates) -> None:
    """On a socket for both versions, an address of 4 counts as what it is."""
    async with serving(certs, host="::", half_open_per_source=1) as server:
        with strangers(server, "127.0.0.2", "127.0.0.3", "127.0.0.2") as (
            first,
            other,
            second,
        ):
            assert await ended(first)
            assert is_open(other)
            assert is_open(second)

            with socket.create_connection(("::1", server.port)):
                await until(lambda: len(server.listener._doors) == 3, what="all")

    assert server.noted[0][0].peer.startswith("127.0.0.2:")


async def test_network_of_version_6(certs: Certificates) -> None:
    """Version 6 has its own share, by the network."""
    async with serving(certs, host="::1", half_open_per_source=1) as server:
        with ExitStack() as stack:
            first, second = (
                stack.enter_context(
                    socket.create_connection(("::1", server.port), timeout=10)
                )
                for _ in range(2)
            )
            assert await ended(first)
            assert is_open(second)

    assert server.noted[0][0].peer.startswith("[::1]:")


async def test_arrived_client_does_not_give_way(certs: Certificates) -> None:
    """A client whose handshake is done is in nobody's way."""
    async with (
        serving(certs, half_open=1, half_open_per_source=1) as server,
        Peers() as peers,
    ):
        clients = [await peers.connect(server, certs) for _ in range(5)]
        await until(lambda: not len(server.listener._doors), what="empty doors")

        assert len(server.sessions) == 5
        assert not any(client.writer.is_closing() for client in clients)

    assert server.counters.refusals[Refusal.CROWDED] == 0


@pytest.mark.slow
async def test_refused_client_in_the_way(
    certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """Who gives way while it reads why it is refused counts for that, and once."""
    async with serving(certs, half_open_per_source=1) as server:
        with strangers(server, "127.0.0.2") as (raw,):
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
            await until(
                lambda: any(
                    one.failure
                    for own in server.listener._doors._by_source.values()
                    for one in own
                ),
                what="the failure",
            )

            with strangers(server, "127.0.0.2"):
                await until(lambda: server.noted, what="the refusal")
                await until(
                    lambda: len(server.listener._handshakes) == 1, what="its end"
                )
                refusals = dict(server.counters.refusals)

    assert refusals[Refusal.TLS] == 1
    assert refusals[Refusal.CROWDED] == 0
    assert "no TLS handshake: http request" in caplog.text


@pytest.mark.slow
async def test_certificates_of_the_moment(certs: Certificates, tmp_path: Path) -> None:
    """Who was silent until a reload is shown what there is then."""
    newer = generate(tmp_path / "newer", "alice")

    def shake(raw: socket.socket) -> bytes:
        context = client_context(newer, newer.of("alice"))

        with context.wrap_socket(raw, server_hostname="localhost") as secure:
            return secure.recv(1 << 16)

    async with serving(certs) as server:
        with strangers(server, "127.0.0.2") as (raw,):
            await until(lambda: len(server.listener._doors), what="the stranger")
            context = server_context(read_files(newer.directory))
            server.listener.use(context, server.config.server)

            assert b"hello" in await asyncio.to_thread(shake, raw)
