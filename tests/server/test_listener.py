"""Who is let in, and that who is not hears why, is logged once, and costs little."""

import asyncio
import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from teleworkerd.protocol.responses import ServerHello
from tests.e2e.pki import (
    DAY,
    Certificates,
    Identity,
    generate,
    issue,
    revoke,
)
from tests.scarce import no_descriptors
from tests.server.peers import (
    Client,
    Peers,
    Server,
    client_context,
    descriptors,
    serving,
    until,
)


Make = Callable[[Certificates, Path], Identity | None]

# How the certificate is made, what the client reads, what the log says.
REFUSED: Final[dict[str, tuple[Make, str, str]]] = {
    "none": (
        lambda certs, into: None,
        "certificate required",
        "the client sent no certificate",
    ),
    "other CA": (
        lambda certs, into: generate(into / "other", "alice").of("alice"),
        "unknown ca",
        "client certificate refused: unable to get local issuer",
    ),
    "expired": (
        lambda certs, into: issue(
            certs, "/CN=alice", into=into, begins=-2 * DAY, ends=-DAY
        ),
        "certificate expired",
        "client certificate refused: certificate has expired",
    ),
    "early": (
        lambda certs, into: issue(
            certs, "/CN=alice", into=into, begins=DAY, ends=2 * DAY
        ),
        "bad certificate",
        "client certificate refused: certificate is not yet valid",
    ),
    "of a server": (
        lambda certs, into: certs.of("server"),
        "unsupported certificate",
        "client certificate refused: unsuitable certificate purpose",
    ),
}


@pytest.fixture(scope="module")
def odd(
    certs: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Identity | None]:
    """One certificate, or none, for each entry of the table."""
    base = tmp_path_factory.mktemp("odd")
    return {name: make(certs, base / name) for name, (make, _, _) in REFUSED.items()}


def first_words(port: int, context: ssl.SSLContext) -> tuple[int, str]:
    """Shake hands; return our port, and what the server said, or the alert."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        own = raw.getsockname()[1]

        try:
            with context.wrap_socket(raw, server_hostname="localhost") as secure:
                return own, repr(secure.recv(4096))
        except ssl.SSLError as error:
            return own, (error.reason or str(error)).replace("_", " ").lower()


def talk(port: int, data: bytes) -> tuple[int, bytes]:
    """Send *data* without TLS; return our port, and what came until the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        raw.sendall(data)
        response = b""

        try:
            while more := raw.recv(4096):
                response += more
        except ConnectionError:
            pass

        return raw.getsockname()[1], response


def lines_of(caplog: pytest.LogCaptureFixture, port: int) -> list[str]:
    """Return what has been logged about the client at *port*."""
    return [
        record.getMessage()
        for record in caplog.records
        if re.search(rf"127\.0\.0\.1:{port}\b", record.getMessage())
    ]


async def greet(server: Server, certs: Certificates) -> None:
    """Connect as alice, as a proof that the server serves."""
    async with Peers() as peers:
        await peers.connect(server, certs)


async def test_good(certs: Certificates) -> None:
    """A client with a certificate hears the server's hello, with its name."""
    async with serving(certs) as server, Peers() as peers:
        client = await peers.connect(server, certs, greet=False)
        hello = await client.expect(ServerHello)

    assert (hello.name, hello.versions) == ("alice", (1,))


@pytest.mark.parametrize("name", REFUSED)
async def test_refused(
    certs: Certificates,
    odd: dict[str, Identity | None],
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    """The client gets TLS's alert; the log one line, with the peer and the reason."""
    _, alert, reason = REFUSED[name]

    async with serving(certs) as server:
        context = client_context(certs, odd[name])
        port, words = await asyncio.to_thread(first_words, server.port, context)
        await until(lambda: not server.listener._handshakes, what="the end of it")

    assert alert in words
    (line,) = lines_of(caplog, port)
    assert line.startswith("refused ")
    assert reason in line


async def test_revoked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who is on the list is refused, the others are not."""
    own = generate(tmp_path / "certs", "alice", "bob")
    revoke(own, "bob")

    async with serving(own) as server:
        context = client_context(own, own.of("bob"))
        port, words = await asyncio.to_thread(first_words, server.port, context)
        await greet(server, own)

    assert "certificate revoked" in words
    assert "certificate revoked" in lines_of(caplog, port)[0]


async def test_old_tls(certs: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing older than 1.3 is spoken, and the client is told so."""
    context = client_context(certs, certs.of("alice"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    async with serving(certs) as server:
        port, words = await asyncio.to_thread(first_words, server.port, context)
        await until(lambda: lines_of(caplog, port), what="a line")

    assert "protocol version" in words
    assert len(lines_of(caplog, port)) == 1


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n", bytes(64), bytes(range(255, 0, -1))],
    ids=["http", "ssh", "zeros", "garbage"],
)
async def test_no_tls(
    certs: Certificates, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    """Who speaks something else is closed soon, with one line in the log."""
    async with serving(certs, handshake_timeout=2.0) as server:
        port, _ = await asyncio.to_thread(talk, server.port, data)
        await until(lambda: not server.listener._handshakes, what="the end of it")
        await greet(server, certs)

    assert len(lines_of(caplog, port)) == 1


@pytest.mark.parametrize("data", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"])
async def test_silent(
    certs: Certificates, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    """Who does not go on with the handshake is dropped after a while."""
    async with serving(certs, handshake_timeout=0.2) as server:
        start = asyncio.get_running_loop().time()
        port, response = await asyncio.to_thread(talk, server.port, data)
        took = asyncio.get_running_loop().time() - start
        await until(lambda: lines_of(caplog, port), what="a line")

    assert response == b""
    assert 0.1 < took < 3
    assert len(lines_of(caplog, port)) == 1
    assert "went away during the handshake" in lines_of(caplog, port)[0]


async def test_refused_client_that_stays(certs: Certificates) -> None:
    """Who was refused and does not close is dropped soon, whatever the deadline."""
    async with serving(certs, handshake_timeout=60.0) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
            start = asyncio.get_running_loop().time()
            await until(lambda: server.listener._handshakes, what="the handshake")
            await until(lambda: not server.listener._handshakes, what="its end")
            took = asyncio.get_running_loop().time() - start

    assert took < 3


async def test_client_that_goes_away(
    certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """A port scan is a line in the log."""
    async with serving(certs) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            port = raw.getsockname()[1]

        await until(lambda: lines_of(caplog, port), what="a line")
        await until(lambda: not server.listener._handshakes, what="the end of it")

    assert len(lines_of(caplog, port)) == 1


async def test_no_descriptor_to_accept(
    certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """Without descriptors nobody is accepted, which is said once; then they are."""
    caplog.set_level("INFO")

    async with serving(certs) as server:
        await greet(server, certs)

        with socket.socket() as raw:
            raw.setblocking(False)
            raw.connect_ex(("127.0.0.1", server.port))

            with no_descriptors():
                await until(
                    lambda: "clients have to wait" in caplog.text, what="a line"
                )
                await asyncio.sleep(0.3)

            await until(lambda: server.listener._handshakes, what="the client's turn")

        await greet(server, certs)

    assert caplog.text.count("clients have to wait: the daemon has no file") == 1
    assert caplog.text.count("clients are accepted again") == 1


async def test_descriptors_of_the_refused(
    certs: Certificates, odd: dict[str, Identity | None]
) -> None:
    """Whoever was refused, by whatever rule, leaves no descriptor behind."""
    async with serving(certs, handshake_timeout=0.3) as server:
        await greet(server, certs)
        await until(lambda: not server.sessions, what="the end of it")
        before = descriptors()

        for identity in odd.values():
            context = client_context(certs, identity)
            await asyncio.to_thread(first_words, server.port, context)
            await asyncio.to_thread(talk, server.port, b"nonsense\r\n")

        await asyncio.to_thread(talk, server.port, b"")
        await until(lambda: not server.listener._handshakes, what="their end")
        await until(lambda: descriptors() <= before, what="the descriptors' end")


async def test_close_during_handshakes(certs: Certificates) -> None:
    """At the end nobody's handshake is waited for."""
    async with serving(certs, handshake_timeout=60.0) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            await until(lambda: server.listener._handshakes, what="the handshake")

            async with asyncio.timeout(5):
                await server.listener.close()

            raw.settimeout(5)
            assert await asyncio.to_thread(raw.recv, 1) == b""


async def test_ipv6(certs: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    """A peer of version 6 is written in brackets."""
    async with serving(certs, host="::1") as server:
        with socket.create_connection(("::1", server.port)) as raw:
            port = raw.getsockname()[1]

        await until(lambda: f"[::1]:{port}" in caplog.text, what="a line")


async def test_dead_peers_are_noticed(certs: Certificates) -> None:
    """The kernel is told to look after connections on which nothing happens."""
    async with serving(certs) as server, Peers() as peers:
        await peers.connect(server, certs)
        sock = server.session()._transport.get_extra_info("socket")

        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_no_resumption(certs: Certificates) -> None:
    """No client gets a ticket, by which it could come back when it is revoked."""
    async with serving(certs) as server, Peers() as peers:
        client: Client = await peers.connect(server, certs)
        tls: ssl.SSLObject = client.writer.get_extra_info("ssl_object")

        assert tls.session is None or not tls.session.has_ticket
