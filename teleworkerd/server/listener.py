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

from teleworkerd.counters import Refusal
from teleworkerd.server.doors import HalfOpen
from teleworkerd.server.heap import Heap
from teleworkerd.server.peer import Peer, peer_of
from teleworkerd.server.refusals import Refusals
from teleworkerd.server.tls import classify, describe, handshake_failed
from teleworkerd.settings import ServerConfig
from teleworkerd.spare import Spare, lack_of


log = logging.getLogger(__name__)

Factory = Callable[[Callable[[], None]], asyncio.Protocol]
"""Makes the protocol of a client, which calls what it is given once it is there."""

_CROWDED: Final = "too many handshakes under way, and it was the oldest"
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
        factory: Factory,
        config: ServerConfig,
        refusals: Refusals,
        *,
        spare: Spare | None = None,
    ) -> None:
        self._sockets = sockets
        self._context = context
        self._factory = factory
        self._config = config
        self._refusals = refusals
        self._spare = spare
        self._is_held_back = False
        self._accepting: list[asyncio.Task[None]] = []
        self._doors: HalfOpen[_Handshake] = HalfOpen()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._heap = Heap()

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
        self._refusals.flush()
        self._heap.close()

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
                self._let_in(sock, peer_of(address))
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

    def _let_in(self, sock: socket.socket, peer: Peer) -> None:
        self._make_way(peer)
        handshake = _Handshake(sock, peer)
        task = asyncio.create_task(self._welcome(handshake))
        handshake.task = task
        self._doors.enter(peer.source, handshake)
        self._handshakes.add(task)
        task.add_done_callback(lambda task: self._ended(handshake, task))

    def _make_way(self, newcomer: Peer) -> None:
        limits = self._config

        while handshake := self._doors.in_the_way(
            newcomer.source,
            most=limits.half_open,
            most_per_source=limits.half_open_per_source,
        ):
            self._doors.leave(handshake.peer.source, handshake)
            handshake.give_way()
            self._refused(handshake, handshake.failure)

    def _ended(self, handshake: "_Handshake", task: asyncio.Task[None]) -> None:
        self._handshakes.discard(task)
        self._doors.leave(handshake.peer.source, handshake)

        # Also that of a task that was cancelled before it began.
        if not handshake.has_arrived:
            handshake.sock.close()
            self._heap.left()

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

    async def _welcome(self, handshake: "_Handshake") -> None:
        for option in _KEEPALIVE:
            # A client may have gone already.
            with contextlib.suppress(OSError):
                handshake.sock.setsockopt(*option)

        limit = self._config.handshake_timeout

        def arrived() -> None:
            handshake.has_arrived = True
            self._doors.leave(handshake.peer.source, handshake)

        try:
            # TLS takes 50 KiB for each: nothing of that for who sends nothing.
            await handshake.first_byte(within=limit)
            await handshake.run(
                lambda: self._factory(arrived),
                self._context,
                self._config,
                within=limit,
            )
        except asyncio.CancelledError:
            if handshake.failure is None or handshake.gives_way:
                raise

            self._refused(handshake, handshake.failure)
        except (OSError, ConnectionError, MemoryError) as error:
            self._refused(handshake, handshake.failure or error)

    def _refused(self, handshake: "_Handshake", error: BaseException | None) -> None:
        kind, reason = Refusal.CROWDED, _CROWDED

        if error is not None:
            kind, reason = classify(error), describe(error)

        self._refusals.tell(handshake.peer, kind, reason)


class _Handshake:
    """One handshake; `failure` says why it failed, if TLS did.

    `has_arrived` says that it is done, and the socket not ours any more.
    """

    def __init__(self, sock: socket.socket, peer: Peer) -> None:
        self.sock: Final = sock
        self.peer: Final = peer
        self.task: asyncio.Task[None] | None = None
        self.failure: ssl.SSLError | None = None
        self.has_arrived = False
        self.gives_way = False
        self._began_at = asyncio.get_running_loop().time()

    async def first_byte(self, *, within: float) -> None:
        """Wait until something has come; raises `OSError` if there will be nothing."""
        loop = asyncio.get_running_loop()
        came = asyncio.Event()
        loop.add_reader(self.sock, came.set)

        try:
            async with asyncio.timeout(within):
                await came.wait()
        except TimeoutError:
            raise TimeoutError(f"it sent nothing in {within:g} s") from None
        finally:
            loop.remove_reader(self.sock)

        if not self.sock.recv(1, socket.MSG_PEEK):
            raise ConnectionResetError

    async def run(
        self,
        factory: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext,
        config: ServerConfig,
        *,
        within: float,
    ) -> None:
        """Do it; return when it is done, *within* so many seconds of its begin."""
        loop = asyncio.get_running_loop()
        left = self._began_at + within - loop.time()
        handshake_failed.set(self._failed)
        await loop.connect_accepted_socket(
            factory,
            self.sock,
            ssl=context,
            ssl_handshake_timeout=max(left, _ALERT_TIME),
            ssl_shutdown_timeout=config.close_timeout,
        )

    def give_way(self) -> None:
        """End it now, for another."""
        self.gives_way = True
        self._end()

    def _failed(self, error: ssl.SSLError) -> None:
        self.failure = error
        asyncio.get_running_loop().call_later(_ALERT_TIME, self._end)

    def _end(self) -> None:
        if self.task is not None:
            self.task.cancel()
