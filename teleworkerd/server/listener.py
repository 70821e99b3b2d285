"""Accepts clients and does their handshakes, each in a task with a deadline."""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable
from typing import Final

from teleworkerd.config import ServerConfig
from teleworkerd.counters import Counters, Refusal
from teleworkerd.server.session import format_peer
from teleworkerd.server.tls import classify, describe, handshake_failed
from teleworkerd.spare import Spare, lack_of


log = logging.getLogger(__name__)

_ALERT_TIME: Final = 0.5  # seconds for a refused client to read why and close
_RETRY_FIRST: Final = 0.1  # seconds until clients are looked for again …
_RETRY_MOST: Final = 1.0  # … and at most, while there are no descriptors left
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
    and has no bound on how many are under way. Whoever cannot be taken for want of a
    descriptor waits, as who comes while *spare* is not whole.
    """

    def __init__(  # noqa: PLR0913 - all that it works with
        self,
        sockets: list[socket.socket],
        context: ssl.SSLContext,
        factory: Callable[[], asyncio.Protocol],
        config: ServerConfig,
        counters: Counters,
        *,
        spare: Spare | None = None,
    ) -> None:
        self._sockets = sockets
        self._context = context
        self._factory = factory
        self._config = config
        self._counters = counters
        self._spare = spare
        self._is_held_back = False
        self._accepting: list[asyncio.Task[None]] = []
        self._handshakes: set[asyncio.Task[None]] = set()

    def use(self, context: ssl.SSLContext, config: ServerConfig) -> None:
        """Do the handshakes from now on with *context*, as *config* has it."""
        self._context = context
        self._config = config

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

        # Once nobody has them open, clients are refused and do not wait.
        for sock in self._sockets:
            sock.close()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        pause = _RETRY_FIRST

        while True:
            try:
                self._fill_spare()
                sock, address = await loop.sock_accept(listening)
                self._let_in(sock, format_peer(address))
            except (OSError, MemoryError) as error:
                self._hold_back(error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _RETRY_MOST)
            else:
                self._go_on()
                pause = _RETRY_FIRST

    def _fill_spare(self) -> None:
        if self._spare is not None and not self._spare.fill():
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def _let_in(self, sock: socket.socket, peer: str) -> None:
        if len(self._handshakes) >= self._config.half_open:
            log.warning("dropped %s: too many handshakes under way", peer)
            self._counters.refusals[Refusal.CROWDED] += 1
            sock.close()
            return

        task = asyncio.create_task(self._welcome(sock, peer))
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    def _hold_back(self, error: OSError | MemoryError) -> None:
        lack = lack_of(error)

        if lack is None:
            log.error("a client could not be accepted: %s", error)
        elif not self._is_held_back:
            self._is_held_back = True
            log.error("clients have to wait: %s", lack)

    def _go_on(self) -> None:
        if self._is_held_back:
            self._is_held_back = False
            log.info("clients are accepted again")

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

            self._refused(peer, handshake.failure)
        except (OSError, ConnectionError, MemoryError) as error:
            sock.close()
            self._refused(peer, handshake.failure or error)

    def _refused(self, peer: str, error: BaseException) -> None:
        log.warning("refused %s: %s", peer, describe(error))
        self._counters.refusals[classify(error)] += 1


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
