"""Answers Prometheus over HTTP, where nobody else may disturb the server."""

import asyncio
import logging
import os
from typing import Final, Self

from teleworkerd.config import Config
from teleworkerd.counters import Counters
from teleworkerd.metrics import CONTENT_TYPE, Metrics, Sources
from teleworkerd.server.handlers import Service
from teleworkerd.settings import Address, parse_address


log = logging.getLogger(__name__)

_AT_ONCE: Final = 8  # jobs on this machine can connect as well: no more than this
_PATIENCE: Final = 5.0  # seconds for one request and its answer
_MAX_HEAD: Final = 8192  # bytes
_LAG_INTERVAL: Final = 1.0  # seconds between two looks at how late the loop is
_PATHS: Final = (b"/", b"/metrics")


class Exporter:
    """Serves the metrics of *sources* at *address*; opens and closes with a block.

    Where the address cannot be had, the server goes on without metrics, and the
    log says why.
    """

    def __init__(self, address: Address, sources: Sources) -> None:
        self._address = address
        self._metrics = Metrics(sources)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._counters = sources.counters

    async def __aenter__(self) -> Self:
        try:
            self._server = await asyncio.start_server(
                self._connected, *self._address, limit=_MAX_HEAD
            )
        except OSError as error:
            log.error(
                "no metrics: cannot listen on %s: %s; choose another [metrics] listen",
                self._address,
                os.strerror(error.errno or 0),
            )
            return self

        host, port, *_ = self._server.sockets[0].getsockname()
        log.info("metrics are at http://%s/metrics", Address(host, port))
        self._own(asyncio.create_task(_watch_lag(self._counters)))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is None:
            return

        self._server.close()
        tasks = list(self._tasks)

        for task in tasks:
            task.cancel()

        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        # One of the tasks measures the lag.
        if len(self._tasks) > _AT_ONCE:
            writer.transport.abort()
        else:
            self._own(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(head))
                writer.close()
                await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # It went away, was too slow (a TimeoutError), or does not speak HTTP.
            pass
        except Exception:
            log.exception("the metrics cannot be told")
        finally:
            writer.transport.abort()

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        target, _, _ = rest.partition(b" ")
        path, _, _ = target.partition(b"?")

        if path not in _PATHS:
            return _response("404 Not Found", "text/plain", b"see /metrics\n")

        if method != b"GET":
            return _response("405 Method Not Allowed", "text/plain", b"only GET\n")

        return _response("200 OK", CONTENT_TYPE, self._metrics.text())

    def _own(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def exporter_of(config: Config, service: Service) -> Exporter:
    """Return what serves the metrics of *service* where *config* says."""
    sources = Sources(
        manager=service.manager,
        counters=service.counters,
        connections=service.connections,
        readings=service.readings,
        state_dir=config.state_dir,
        keeper_pid=os.getppid(),
        keeper_open_files=service.keeper_open_files,
        keeper_started_at=service.welcome.keeper_started_at,
        started_at=service.started_at,
        restarts=service.welcome.restarts,
    )
    return Exporter(parse_address(config.metrics.listen), sources)


async def _watch_lag(counters: Counters) -> None:
    loop = asyncio.get_running_loop()

    while True:
        due = loop.time() + _LAG_INTERVAL
        await asyncio.sleep(_LAG_INTERVAL)
        counters.loop_lag.observe(max(0.0, loop.time() - due))


def _response(status: str, kind: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
