"""What the server counts of its clients."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from teleworkerd.counters import Counters, Refusal
from teleworkerd.protocol.messages import OutputRequest, StatusRequest
from teleworkerd.protocol.responses import (
    ErrorResponse,
    OutputChunk,
    OutputEnd,
    OutputResponse,
)
from teleworkerd.protocol.types import Stream
from tests.e2e.pki import Certificates, Identity, issue
from tests.server.peers import Peers, Server, client_context, serving, until
from tests.server.scene import CREDIT, scene
from tests.server.test_listener import first_words


Come = Callable[[Server, Certificates, Path], object]


def refusals(counters: Counters) -> dict[Refusal, int]:
    """Return why clients were refused."""
    return {reason: count for reason, count in counters.refusals.items() if count}


async def test_requests(certs: Certificates, tmp_path: Path) -> None:
    """Each answer is counted by what was asked and by what came out."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        await play.alice.ask(StatusRequest(1, "nothing"), ErrorResponse)
        await play.bob.ask(StatusRequest(1, job), ErrorResponse)

    assert play.service.counters.requests == {
        ("run", "ok"): 1,
        ("status", "job_not_found"): 2,
    }


async def test_sent(certs: Certificates, tmp_path: Path) -> None:
    """What is sent is counted for each reader, and what was dropped is not sent."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        play.executor.write(job, b"12345")
        play.executor.exit(job)

        for number in (1, 2):
            await play.read(OutputRequest(number, job, credit=CREDIT))

    assert play.service.counters.sent_bytes == 10
    assert play.service.counters.output_bytes == 5


async def test_readings(certs: Certificates, tmp_path: Path) -> None:
    """A request that reads output is known with its place, until it is over."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        play.executor.write(job, b"12345")
        await play.alice.ask(
            OutputRequest(1, job, follow=True, credit=CREDIT), OutputResponse
        )
        await play.alice.expect(OutputChunk)
        [(read, reading)] = play.service.readings
        offsets = dict(reading.offsets)
        play.executor.exit(job)
        await play.alice.expect(OutputEnd)

    assert (read.id, offsets) == (job, {Stream.STDOUT: 5})
    assert play.service.readings == set()


def _come_with(make: Callable[[Certificates, Path], Identity | None]) -> Come:
    def come(server: Server, certs: Certificates, into: Path) -> object:
        return first_words(server.port, client_context(certs, make(certs, into)))

    return come


def _come_without_tls(server: Server, certs: Certificates, into: Path) -> object:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
        return raw.recv(4096)


def _come_and_go(server: Server, certs: Certificates, into: Path) -> object:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
        return raw


@pytest.mark.parametrize(
    ("come", "why"),
    [
        (_come_with(lambda certs, into: None), Refusal.CERTIFICATE),
        (_come_with(lambda certs, into: certs.of("server")), Refusal.CERTIFICATE),
        (
            _come_with(lambda certs, into: issue(certs, "/CN=a b", into=into / "odd")),
            Refusal.IDENTITY,
        ),
        pytest.param(_come_without_tls, Refusal.TLS, marks=pytest.mark.slow),
        (_come_and_go, Refusal.GONE),
    ],
    ids=["no certificate", "of a server", "odd name", "no TLS", "gone"],
)
async def test_refused(
    certs: Certificates, tmp_path: Path, come: Come, why: Refusal
) -> None:
    """Who is refused counts once, under a reason that says who has to act."""
    async with serving(certs) as server:
        await asyncio.to_thread(come, server, certs, tmp_path)
        await until(lambda: refusals(server.counters), what="a refusal")

    assert refusals(server.counters) == {why: 1}


async def test_silent(certs: Certificates) -> None:
    """Who says no hello counts as well."""
    async with serving(certs, hello_timeout=0.05) as server, Peers() as peers:
        await peers.connect(server, certs, greet=False)
        await until(lambda: refusals(server.counters), what="a refusal")

    assert refusals(server.counters) == {Refusal.SILENT: 1}


async def test_crowded(certs: Certificates) -> None:
    """One connection more than there may be."""
    async with serving(certs, connections=1) as server, Peers() as peers:
        await peers.connect(server, certs)
        second = await peers.connect(server, certs, greet=False)
        await second.refusal()

    assert refusals(server.counters) == {Refusal.CROWDED: 1}


async def test_too_many_handshakes(certs: Certificates) -> None:
    """One handshake more than may be under way."""
    async with serving(certs, half_open=1) as server:
        address = ("127.0.0.1", server.port)

        with socket.create_connection(address), socket.create_connection(address):
            await until(lambda: refusals(server.counters), what="a refusal")
            found = refusals(server.counters)

    assert found == {Refusal.CROWDED: 1}
