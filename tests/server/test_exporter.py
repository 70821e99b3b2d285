"""Prometheus asks over HTTP, and others who should not cannot do harm."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from teleworkerd.server import exporter
from teleworkerd.server.exporter import Exporter, exporter_of
from teleworkerd.settings import MetricsConfig
from tests.e2e.pki import Certificates
from tests.fakes import config_in
from tests.server.peers import DEADLINE, until
from tests.server.scene import Scene, scene


GET = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


@asynccontextmanager
async def exporting(
    certs: Certificates, path: Path, listen: str = "127.0.0.1:0"
) -> AsyncIterator[tuple[Scene, Exporter]]:
    """A server with metrics."""
    async with scene(certs, path) as play:
        config = replace(config_in(path), metrics=MetricsConfig(listen))

        async with exporter_of(config, play.service) as running:
            yield play, running


def port_of(running: Exporter) -> int:
    """Return where it listens."""
    assert running._server is not None
    port = running._server.sockets[0].getsockname()[1]
    assert isinstance(port, int)
    return port


async def ask(running: Exporter, request: bytes) -> bytes:
    """Return all that comes for *request*."""
    async with asyncio.timeout(DEADLINE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(running))
        writer.write(request)

        try:
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.transport.abort()


async def test_asked(certs: Certificates, tmp_path: Path) -> None:
    """The answer is whole, says what it is, and has what the jobs did."""
    async with exporting(certs, tmp_path) as (play, running):
        await play.run()
        head, _, body = (await ask(running, GET)).partition(b"\r\n\r\n")

    assert head.startswith(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"
    )
    assert f"Content-Length: {len(body)}\r\n".encode() in head
    assert b'\nteleworker_launches_total{outcome="started"} 1.0\n' in body
    assert body.endswith(b"\n")


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET / HTTP/1.0", b"200"),
        (b"GET /metrics?name=x HTTP/1.1", b"200"),
        (b"GET /jobs HTTP/1.1", b"404"),
        (b"POST /metrics HTTP/1.1", b"405"),
        (b"nonsense", b"404"),
        (b"\xff\x00", b"404"),
    ],
)
async def test_other_requests(
    certs: Certificates, tmp_path: Path, line: bytes, status: bytes
) -> None:
    """Whatever is not a request for the metrics is told so."""
    async with exporting(certs, tmp_path) as (_, running):
        answer = await ask(running, line + b"\r\n\r\n")

    assert answer.split(b" ")[1] == status


async def test_too_much(certs: Certificates, tmp_path: Path) -> None:
    """Who sends more than a request gets nothing, and the next one is served."""
    async with exporting(certs, tmp_path) as (_, running):
        assert await ask(running, b"x" * 100_000) == b""
        assert b" 200 OK" in await ask(running, GET)


async def test_too_slow(
    certs: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who does not say what it wants is not waited for."""
    monkeypatch.setattr(exporter, "_PATIENCE", 0.05)

    async with exporting(certs, tmp_path) as (_, running):
        assert await ask(running, b"GET /metrics") == b""


async def test_too_many(certs: Certificates, tmp_path: Path) -> None:
    """A job that holds every connection costs the server no more than these."""
    async with exporting(certs, tmp_path) as (_, running):
        port = port_of(running)
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
        await until(lambda: len(running._tasks) == 9, what="eight clients, one watch")
        refused = await ask(running, GET)

        for _, writer in held:
            writer.transport.abort()

        await until(lambda: len(running._tasks) == 1, what="room again")
        served = await ask(running, GET)

    assert refused == b""
    assert b" 200 OK" in served


async def test_nowhere_to_listen(
    certs: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A port in use costs the metrics, not the server; the log says it at once."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"

        async with exporting(certs, tmp_path, listen) as (play, _):
            await play.run()

    (record,) = (each for each in caplog.records if each.name == exporter.__name__)
    assert record.levelno == logging.ERROR
    assert record.getMessage() == (
        f"no metrics: cannot listen on {listen}: Address already in use;"
        " choose another [metrics] listen"
    )


async def test_end(certs: Certificates, tmp_path: Path) -> None:
    """At the end the port is free, whoever still holds a connection."""
    async with exporting(certs, tmp_path) as (_, running):
        port = port_of(running)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await until(lambda: len(running._tasks) == 2, what="a client")

    assert await reader.read() == b""
    writer.transport.abort()

    with socket.create_server(("127.0.0.1", port)):
        pass


async def test_broken(
    certs: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A mistake of ours is in the log, and not the end of the server."""
    async with exporting(certs, tmp_path) as (play, running):
        monkeypatch.setattr(running._metrics, "text", lambda: 1 / 0)
        answer = await ask(running, GET)
        await play.run()

    assert answer == b""
    assert "ZeroDivisionError" in caplog.text


async def test_late_loop(
    certs: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How late the loop comes to its work is measured all the time."""
    monkeypatch.setattr(exporter, "_LAG_INTERVAL", 0.01)

    async with exporting(certs, tmp_path) as (play, _):
        lag = play.service.counters.loop_lag
        await until(lambda: lag.buckets[-1][1] >= 2, what="two looks")

    assert lag.total >= 0
