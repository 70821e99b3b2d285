"""A bad network: a TCP proxy that cuts, delays, throttles and swallows."""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Self


HOST: Final = "127.0.0.1"
PIECE: Final = 64 << 10  # bytes that are passed on at once
STEPS: Final = 50  # pieces in a second, where there is a rate
LINGER: Final = struct.pack("ii", 1, 0)  # closing sends a reset
PATIENCE: Final = 10.0  # seconds for the proxy's own thread


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a connection; times are in seconds, sizes in bytes.

    It is reset so long after it was accepted, or once so much has come `down`
    from the server or gone `up` to it. Each piece is held back by `delay`, and
    `rate` is how much passes in a second.
    """

    after: float | None = None
    down: int | None = None
    up: int | None = None
    delay: float = 0.0
    rate: int | None = None


class Proxy:
    """Passes on what is sent to `address` to *target*, as long as it is entered.

    A connection has the next one of *faults*, or else *usual*. Both may be
    changed at any time, from any thread.
    """

    def __init__(self, target: str, *faults: Fault, usual: Fault | None = None) -> None:
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self.faults = list(faults)
        self.usual = usual or Fault()
        self.accepted = 0
        self._port = 0
        self._runner = asyncio.Runner()
        self._stopped = asyncio.Event()
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._listening: asyncio.Task[None] | None = None
        self._pairs: dict[asyncio.Task[None], _Pair] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_ready.wait(PATIENCE)
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self.reset()
        self._runner.get_loop().call_soon_threadsafe(self._stopped.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        assert not self._pairs

    @property
    def down(self) -> int:
        """How many bytes have come from the server, of the connections that stand."""
        return sum(pair.down for pair in list(self._pairs.values()))

    @property
    def up(self) -> int:
        """How many bytes have gone to the server, of the connections that stand."""
        return sum(pair.up for pair in list(self._pairs.values()))

    @property
    def address(self) -> str:
        """`HOST:PORT`, the same as long as the proxy is there."""
        return f"{HOST}:{self._port}"

    def listen(self) -> None:
        """Accept connections, again after `refuse` too."""
        self._do(self._listen())

    def refuse(self) -> None:
        """Accept no more connections; those that stand go on."""
        self._do(self._refuse())

    def reset(self) -> None:
        """Cut all connections now."""
        self._do(self._reset())

    def stall(self) -> None:
        """Pass on nothing more of what stands now, but do not close it either."""
        self._do(self._stall())

    def _do(self, coroutine: Coroutine[Any, Any, None]) -> None:
        loop = self._runner.get_loop()
        asyncio.run_coroutine_threadsafe(coroutine, loop).result(PATIENCE)

    def _work(self) -> None:
        with self._runner:
            self._runner.run(self._serve())

    async def _serve(self) -> None:
        self._is_ready.set()
        await self._stopped.wait()

    async def _listen(self) -> None:
        sock = socket.create_server((HOST, self._port))
        sock.setblocking(False)
        self._port = sock.getsockname()[1]
        self._listening = asyncio.create_task(self._accept(sock))

    async def _refuse(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])

    async def _reset(self) -> None:
        tasks = list(self._pairs)

        for task in tasks:
            task.cancel()

        await asyncio.gather(*tasks, return_exceptions=True)

    async def _stall(self) -> None:
        for pair in self._pairs.values():
            pair.flows.clear()

    async def _accept(self, listening: socket.socket) -> None:
        with listening:
            while True:
                client, _ = await asyncio.get_running_loop().sock_accept(listening)
                self.accepted += 1
                fault = self.faults.pop(0) if self.faults else self.usual
                pair = _Pair(client, fault)
                pair.flows.set()
                task = asyncio.create_task(pair.run(self._target))
                self._pairs[task] = pair
                task.add_done_callback(self._pairs.pop)


@dataclass(slots=True)
class _Pair:
    """A connection from a client, and the one to the target that belongs to it."""

    client: socket.socket
    fault: Fault
    server: socket.socket = field(default_factory=socket.socket)
    flows: asyncio.Event = field(default_factory=asyncio.Event)
    down: int = 0  # bytes that have come from the server
    up: int = 0  # bytes that have gone to it

    async def run(self, target: tuple[str, int]) -> None:
        """Pass on until both sides have ended, or something has to be cut."""
        with self.client, self.server:
            try:
                async with asyncio.timeout(self.fault.after):
                    await self._run(target)
            except BaseException as error:
                for sock in (self.client, self.server):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)

                if not isinstance(error, OSError | EOFError):
                    raise

    async def _run(self, target: tuple[str, int]) -> None:
        for sock in (self.client, self.server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        await asyncio.get_running_loop().sock_connect(self.server, target)
        ways = (
            self._pass_on(self.client, self.server, self.fault.up),
            self._pass_on(self.server, self.client, self.fault.down),
        )

        tasks = [asyncio.ensure_future(way) for way in ways]

        try:
            await asyncio.gather(*tasks)
        finally:
            # One that is left would go on with a socket that is closed.
            for task in tasks:
                task.cancel()

            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pass_on(
        self, source: socket.socket, sink: socket.socket, most: int | None
    ) -> None:
        """Pass on to the end; raises `EOFError` after *most* bytes."""
        loop = asyncio.get_running_loop()
        rate = self.fault.rate
        size = PIECE if rate is None else max(1, rate // STEPS)
        passed = 0

        while data := await loop.sock_recv(source, size):
            if most is not None:
                data = data[: most - passed]

            await asyncio.sleep(self.fault.delay)
            await self.flows.wait()
            passed += len(data)

            if source is self.server:
                self.down += len(data)
            else:
                self.up += len(data)

            await loop.sock_sendall(sink, data)

            if passed == most:
                raise EOFError

            if rate is not None:
                await asyncio.sleep(len(data) / rate)

        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
