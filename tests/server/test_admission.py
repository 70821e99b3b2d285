"""Which certificates get in: real ones, over real sockets."""

import asyncio
import gc
import re
import socket
import ssl
import struct
import subprocess
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from teleworkerd.counters import Refusal
from teleworkerd.protocol.errors import PermissionDenied
from teleworkerd.protocol.messages import ALPN
from teleworkerd.protocol.responses import ServerHello
from tests.e2e.authority import (
    ANY,
    Authority,
    Signed,
    common,
    directory_of,
    named,
)
from tests.e2e.pki import DAY, Certificates, Identity
from tests.server.handshakes import alert_of, counted
from tests.server.peers import Peers, Server, client_context, serving, until


ROOT: Final = Authority.root()
BELOW: Final = ROOT.authority("below")
LARGE: Final = 100 << 10  # bytes, which is what OpenSSL takes at most

Make = Callable[[Certificates], Signed]


def with_extension(size: int) -> Signed:
    """Return a client's certificate of more than *size* bytes."""
    oid = x509.ObjectIdentifier("1.3.6.1.4.1.55555.1")
    return ROOT.client(
        extensions=[(x509.UnrecognizedExtension(oid, bytes(size)), False)]
    )


def deep(count: int) -> Signed:
    """Return one with *count* authorities between it and the root."""
    numbers = range(count)
    return reduce(lambda above, one: above.authority(str(one)), numbers, ROOT).client()


# How the certificate is made, and what the log says; TLS refuses these.
BY_TLS: Final[dict[str, tuple[Callable[[], Signed], str]]] = {
    "other authority": (
        lambda: Authority.root().client(),
        "unable to get local issuer certificate; its authority is not in ca.pem",
    ),
    "its own authority": (
        lambda: Signed((own := Authority.root("alice")).certificate, own.key),
        "self.signed certificate; it is its own authority",
    ),
    "other root sent along": (
        lambda: _with_root(Authority.root("Other")),
        "self.signed certificate in certificate chain; its authority is not in ca.pem",
    ),
    "same name, other key": (
        lambda: Signed(
            (alice := Authority.root("Test CA").client()).certificate, alice.key
        ),
        "client certificate refused: ",
    ),
    "expired": (
        lambda: ROOT.client(begins=-2 * DAY, ends=-DAY),
        "certificate has expired; it needs a new one, or its authority does",
    ),
    "early": (
        lambda: ROOT.client(begins=DAY, ends=2 * DAY),
        "certificate is not yet valid; a clock is wrong, or it was made for later",
    ),
    "of a server": (
        lambda: ROOT.server("alice"),
        r"unsuitable certificate purpose; it, .* is not for clients \(extended key",
    ),
    "any purpose": (
        lambda: ROOT.client(purposes=ANY),
        "unsuitable certificate purpose",
    ),
    "no signer's identifier": (
        lambda: ROOT.client(has_signer_id=False),
        "Missing Authority Key Identifier; have it made anew, with what gen_certs.sh",
    ),
    "missing intermediate": (
        lambda: Signed((alice := BELOW.client()).certificate, alice.key),
        "local issuer certificate; .*the client did not send one that stands between",
    ),
    "too many below": (
        lambda: ROOT.authority("x", path_length=0).authority("y").client(),
        "path length constraint exceeded; there are more authorities above it than",
    ),
    "intermediate without key usage": (
        lambda: ROOT.authority("x", usages=()).client(),
        "CA cert does not include key usage extension; have it made anew",
    ),
    "signed by a user": (
        lambda: _signed_by(ROOT.client("bob")),
        "client certificate refused: invalid CA certificate; it was made by one that",
    ),
    "unknown critical extension": (
        lambda: ROOT.client(
            extensions=[
                (
                    x509.UnrecognizedExtension(
                        x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00"
                    ),
                    True,
                )
            ]
        ),
        "unhandled critical extension; it has a critical extension that nobody here",
    ),
    "too large": (
        lambda: with_extension(LARGE),
        "no TLS handshake: excessive message size; the client's certificates are too",
    ),
    "far too deep": (
        lambda: deep(200),
        "certificate chain too long; there are too many others above it",
    ),
}


def _with_root(root: Authority) -> Signed:
    alice = root.client()
    return Signed(alice.certificate, alice.key, (root.certificate,))


def _signed_by(user: Signed) -> Signed:
    liar = Authority(user.certificate, user.key, (user.certificate,))
    return liar.client("alice")


# How the certificate is made, and what client and log are told; we refuse these.
BY_US: Final[dict[str, tuple[Callable[[], Signed], str]]] = {
    "no purpose": (
        lambda: ROOT.client(purposes=()),
        r"does not say that it is for a client \(extended key usage clientAuth\)",
    ),
    "deep": (lambda: deep(19), "has 20 others above it, and more than 9 are not"),
    "two names": (lambda: ROOT.client(common("alice", "root")), "has 2 common names"),
    "same name twice": (
        lambda: ROOT.client(common("alice", "alice")),
        "has 2 common names",
    ),
    "no name": (
        lambda: ROOT.client(named((NameOID.ORGANIZATION_NAME, "alice"))),
        "has 0 common names",
    ),
    "in one RDN": (
        lambda: ROOT.client(
            x509.Name(
                [
                    x509.RelativeDistinguishedName(
                        [
                            x509.NameAttribute(NameOID.COMMON_NAME, "alice"),
                            x509.NameAttribute(NameOID.COMMON_NAME, "root"),
                        ]
                    )
                ]
            )
        ),
        "has 2 common names",
    ),
    **{
        f"name {name!r:.20}": (
            lambda name=name: ROOT.client(common(name)),  # type: ignore[misc]  # each its own
            r"common name .* is not 1 to 64 characters",
        )
        for name in (
            "a" * 65,
            "alice\0root",
            "alice\nroot",
            "../../etc",
            "\u202eecila",
            "ali\u200bce",
            " alice",
            "-rf",
        )
    },
}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """What a server has that trusts `ROOT`."""
    return directory_of(tmp_path_factory.mktemp("own"), ROOT.server(), ROOT)


def resident() -> int:
    """Return how many bytes this process has in memory, without what is garbage."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("name", BY_TLS)
async def test_refused_by_tls(
    own: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """The client gets an alert; the log one line with reason and remedy."""
    make, words = BY_TLS[name]
    context = client_context(own, make().save(tmp_path, "client"))

    async with serving(own) as server:
        alert = await asyncio.to_thread(alert_of, server, context)
        await until(lambda: counted(server), what="a refusal")

    (line,) = (record.getMessage() for record in caplog.records)
    assert re.match(rf"refused 127\.0\.0\.1:\d+: .*{words}", line)
    assert "alert" in alert.lower() or "reset" in alert.lower()


@pytest.mark.parametrize("name", BY_US)
async def test_refused_by_us(
    own: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """The client is told in our protocol what is wrong; the log has the same."""
    make, words = BY_US[name]
    context = client_context(own, make().save(tmp_path, "client"))

    async with serving(own) as server, Peers() as peers:
        client = await peers.connect(server, own, context=context, greet=False)
        error = await client.refusal()

        assert await client.is_closed()
        assert counted(server) == {Refusal.IDENTITY: 1}

    assert isinstance(error, PermissionDenied)
    assert re.search(words, error.message)
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.endswith(f": {error.message}")
    assert line.isprintable()


async def test_with_intermediate(own: Certificates, tmp_path: Path) -> None:
    """Who sends what stands between is let in."""
    context = client_context(own, BELOW.client().save(tmp_path, "client"))

    async with serving(own) as server, Peers() as peers:
        client = await peers.connect(server, own, context=context, greet=False)

        assert (await client.expect(ServerHello)).name == "alice"


async def test_client_that_does_not_trust_us(
    own: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that refuses the server is not taken for one that is refused."""
    other = directory_of(tmp_path, ROOT.server(), Authority.root())
    context = client_context(other, ROOT.client().save(tmp_path, "client"))

    def come(port: int) -> None:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            context.wrap_socket(raw, server_hostname="localhost")

    async with serving(own) as server:
        await asyncio.to_thread(come, server.port)
        await until(lambda: counted(server), what="a refusal")

        assert counted(server) == {Refusal.TLS: 1}

    assert (
        "the client does not take the server's certificate, server.pem" in caplog.text
    )


@pytest.mark.slow
async def test_large_ones_cost_nothing(own: Certificates, tmp_path: Path) -> None:
    """Many certificates that are too large or too deep leave nothing behind."""
    contexts = [
        client_context(own, signed.save(tmp_path, str(number)))
        for number, signed in enumerate((with_extension(LARGE), deep(19)))
    ]

    async with serving(own) as server:

        async def come(count: int) -> None:
            before = sum(counted(server).values())

            for _ in range(count):
                for context in contexts:
                    await asyncio.to_thread(go, server, context)

            wanted = before + count * len(contexts)
            await until(
                lambda: sum(counted(server).values()) == wanted, what="refusals"
            )

        await come(5)
        before = resident()
        await come(10)

        assert resident() - before < 8 << 20


def go(server: Server, context: ssl.SSLContext) -> None:
    """Shake hands, and hear whatever there is to hear until the end."""
    try:
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as secure,
        ):
            while secure.recv(4096):
                pass
    except (ssl.SSLError, ConnectionError):
        return


async def test_reset_at_once(
    own: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """Who comes and resets the connection is a line in the log, and no more."""
    async with serving(own) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        await until(lambda: counted(server), what="a refusal")
        await until(lambda: not server.listener._handshakes, what="the end of it")

        assert counted(server) == {Refusal.GONE: 1}

    (line,) = (record.getMessage() for record in caplog.records)
    assert "went away during the handshake" in line


async def test_openssl(own: Certificates, tmp_path: Path) -> None:
    """Another client than ours has TLS 1.3, our protocol's name, and the hello."""
    identity: Identity = ROOT.client().save(tmp_path, "client")

    async with serving(own) as server:
        process = await asyncio.create_subprocess_exec(
            *("openssl", "s_client", "-connect", f"127.0.0.1:{server.port}"),
            *("-cert", identity.cert, "-key", identity.key, "-CAfile", own.ca),
            *("-alpn", ALPN, "-verify_return_error", "-tls1_3"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        assert process.stdin is not None
        printed = b""

        async with asyncio.timeout(10):
            while b"alice" not in printed:
                printed += await process.stdout.read(4096)

            process.stdin.close()
            printed += await process.stdout.read()
            await process.wait()

    assert b"New, TLSv1.3" in printed
    assert f"ALPN protocol: {ALPN}".encode() in printed
    assert b"Reused" not in printed
