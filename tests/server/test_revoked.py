"""Who is revoked stays out, and nobody comes back without being looked at again."""

import asyncio
import socket
import ssl
import time
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509

from teleworkerd.counters import Refusal
from tests.e2e.authority import Authority, directory_of
from tests.e2e.pki import Certificates
from tests.e2e.strangers import impostor
from tests.server.handshakes import alert_of, counted
from tests.server.peers import Peers, Server, client_context, serving, until


ROOT: Final = Authority.root()
BELOW: Final = ROOT.authority("below")
SECOND: Final = timedelta(seconds=1)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """What a server has that trusts `ROOT`."""
    return directory_of(tmp_path_factory.mktemp("own"), ROOT.server(), ROOT)


@pytest.mark.slow
async def test_list_that_ends_meanwhile(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """When the server's list ends, newcomers are refused for it, and others stay."""
    lists = ROOT.revoke(ends=4 * SECOND)
    certs = directory_of(tmp_path, ROOT.server(), ROOT, lists=lists)
    ends = x509.load_pem_x509_crl(lists).next_update_utc
    assert ends is not None
    context = client_context(certs, ROOT.client().save(tmp_path, "client"))

    async with serving(certs) as server, Peers() as peers:
        early = await peers.connect(server, certs, context=context)
        await until(lambda: time.time() > ends.timestamp() + 1, what="the list's end")
        await asyncio.to_thread(alert_of, server, context)
        await until(lambda: counted(server), what="a refusal")

        assert counted(server) == {Refusal.REVOCATION_LIST: 1}
        assert len(server.sessions) == 1
        assert not early.reader.at_eof()

    (line,) = (record.getMessage() for record in caplog.records)
    assert "the server's own revocation list (CRL), crl.pem, keeps everybody" in line
    assert "CRL has expired; make a new one with 'gen_certs.sh --renew-crl'" in line
    assert "client certificate" not in line


async def test_no_list_of_an_intermediate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whose authority has no list is refused for the want of it, by its name."""
    certs = directory_of(tmp_path, ROOT.server(), ROOT, lists=ROOT.revoke())
    context = client_context(certs, BELOW.client().save(tmp_path, "client"))

    async with serving(certs) as server:
        await asyncio.to_thread(alert_of, server, context)
        await until(lambda: counted(server), what="a refusal")

        assert counted(server) == {Refusal.REVOCATION_LIST: 1}

    assert "it has no list of that authority: add one, and reload" in caplog.text


async def test_revoked_at_an_intermediate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The list of an authority that stands between counts as well."""
    alice, bob = BELOW.client(), BELOW.client("bob")
    lists = ROOT.revoke() + BELOW.revoke(bob.certificate)
    certs = directory_of(tmp_path, ROOT.server(), ROOT, BELOW, lists=lists)
    good, bad = (
        client_context(certs, each.save(tmp_path, str(number)))
        for number, each in enumerate((alice, bob))
    )

    async with serving(certs) as server, Peers() as peers:
        await peers.connect(server, certs, context=good)
        alert = await asyncio.to_thread(alert_of, server, bad)

    assert "revoked" in alert.lower()
    assert "certificate revoked" in caplog.text


def session_from(address: str, context: ssl.SSLContext) -> ssl.SSLSession:
    """Return what a server that gives out tickets gives us."""
    host, _, port = address.rpartition(":")

    with (
        socket.create_connection((host, int(port)), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secure,
    ):
        secure.recv(1)
        assert secure.session is not None
        assert secure.session.has_ticket
        return secure.session


def resume(
    server: Server, context: ssl.SSLContext, session: ssl.SSLSession
) -> tuple[bool | None, bytes, bool]:
    """Offer *session*; return whether it was used, the hello, and if there is another.

    Raises `ssl.SSLError` when we are refused.
    """
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname="localhost", session=session) as tls,
    ):
        hello = tls.recv(4096)
        return tls.session_reused, hello, bool(tls.session and tls.session.has_ticket)


async def test_session_is_not_resumed(own: Certificates, tmp_path: Path) -> None:
    """Who offers a session has a full handshake, and gets no ticket for another."""
    context = client_context(own, ROOT.client().save(tmp_path, "client"))

    with impostor(own.of("server")) as address:
        session = await asyncio.to_thread(session_from, address, context)

    async with serving(own) as server:
        was_used, hello, has_ticket = await asyncio.to_thread(
            resume, server, context, session
        )

    assert not was_used
    assert hello
    assert not has_ticket


async def test_session_from_before_the_revocation(
    own: Certificates, tmp_path: Path
) -> None:
    """A session from before is of no use to who is revoked."""
    alice = ROOT.client()
    lists = ROOT.revoke(alice.certificate)
    certs = directory_of(tmp_path, ROOT.server(), ROOT, lists=lists)
    context = client_context(certs, alice.save(tmp_path, "client"))

    with impostor(certs.of("server")) as address:
        session = await asyncio.to_thread(session_from, address, context)

    async with serving(certs) as server:
        with pytest.raises(ssl.SSLError, match=r"(?i)revoked"):
            await asyncio.to_thread(resume, server, context, session)


async def test_no_ticket(own: Certificates, tmp_path: Path) -> None:
    """Nobody gets a ticket with which to come back."""
    context = client_context(own, ROOT.client().save(tmp_path, "client"))

    def connect(port: int) -> bool:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as secure,
        ):
            secure.recv(4096)
            return bool(secure.session and secure.session.has_ticket)

    async with serving(own) as server:
        assert not await asyncio.to_thread(connect, server.port)
