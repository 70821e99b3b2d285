"""Accepts clients and does their handshakes, each in a task with a deadline."""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final

from teleworkerd.config import ServerConfig
from teleworkerd.server.session import format_peer
from teleworkerd.server.tls import describe, handshake_failed


log = logging.getLogger(__name__)

_ALERT_TIME: Final = 0.5  # seconds for a refused client to read why and close
_ACCEPT_RETRY: Final = 0.1  # seconds, when there are no descriptors left
_KEEPALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),  # seconds
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),  # seconds
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),  # milliseconds
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)


class Listener:
    """Serves *sockets*, which listen; each client gets a *factory* protocol.

    `asyncio.Server` would tell neither us nor the client why a handshake failed,
    and has no bound on how many are under way.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        context: ssl.SSLContext,
        factory: Callable[[], asyncio.Protocol],
        config: ServerConfig,
    ) -> None:
        self._sockets = sockets
        self._context = context
        self._factory = factory
        self._config = config
        self._accepting: list[asyncio.Task[None]] = []
        self._handshakes: set[asyncio.Task[None]] = set()

    def use(self, context: ssl.SSLContext) -> None:
        """Do the handshakes from now on with *context*."""
        self._context = context

    def start(self) -> None:
        """Begin to accept."""
        for sock in self._sockets:
            sock.setblocking(False)
            self._accepting.append(asyncio.create_task(self._accept(sock)))

    async def close(self) -> None:
        """Accept nobody any more, and drop whose handshake is not done."""
        tasks = [*self._accepting, *self._handshakes]

        for task in tasks:
            task.cancel()

        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()

        while True:
            try:
                sock, address = await loop.sock_accept(listening)
            except OSError as error:
                log.error("no client can be accepted: %s", error)
                await asyncio.sleep(_ACCEPT_RETRY)
                continue

            peer = format_peer(address)

            if len(self._handshakes) >= self._config.half_open:
                log.warning("dropped %s: too many handshakes under way", peer)
                sock.close()
                continue

            task = asyncio.create_task(self._welcome(sock, peer))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _welcome(self, sock: socket.socket, peer: str) -> None:
        for option in _KEEPALIVE:
            # A client may have gone already.
            with contextlib.suppress(OSError):
                sock.setsockopt(*option)

        handshake = _Handshake()

        try:
            await handshake.run(sock, self._context, self._factory, self._config)
        except asyncio.CancelledError:
            sock.close()

            if handshake.failure is None:
                raise

            log.warning("refused %s: %s", peer, describe(handshake.failure))
        except (OSError, ConnectionError) as error:
            sock.close()
            log.warning("refused %s: %s", peer, describe(handshake.failure or error))


class _Handshake:
    """One handshake; `failure` says why it failed, if TLS did."""

    def __init__(self) -> None:
        self.failure: ssl.SSLError | None = None
        self._task: asyncio.Task[object] | None = None

    async def run(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        factory: Callable[[], asyncio.Protocol],
        config: ServerConfig,
    ) -> None:
        self._task = asyncio.current_task()
        handshake_failed.set(self._failed)
        await asyncio.get_running_loop().connect_accepted_socket(
            factory,
            sock,
            ssl=context,
            ssl_handshake_timeout=config.handshake_timeout,
            ssl_shutdown_timeout=config.close_timeout,
        )

    def _failed(self, error: ssl.SSLError) -> None:
        self.failure = error

        if self._task is not None:
            asyncio.get_running_loop().call_later(_ALERT_TIME, self._task.cancel)
