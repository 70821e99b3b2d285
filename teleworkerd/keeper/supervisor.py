"""The daemon as a whole: the keeper, and the server that it starts and restarts."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from teleworkerd.cgroups.base import CgroupDriver, CgroupError
from teleworkerd.cgroups.detect import detect
from teleworkerd.config import Address, Config, ConfigError, parse_address
from teleworkerd.keeper.keeper import Keeper, use_pidfds
from teleworkerd.keeper.notify import notify
from teleworkerd.keeper.spawn import spawn
from teleworkerd.keeper.state_dir import StateDirectory


log = logging.getLogger(__name__)

_BACKOFF_FIRST: Final = 0.1  # seconds before a dead server is started again …
_BACKOFF_MOST: Final = 10.0  # … and at most, when it dies again and again
_GOODBYE: Final = 10.0  # seconds that the server has beyond the jobs' grace


def run(config: Config, *, reload: Callable[[], Config]) -> int:
    """Run the daemon until it is told to end; return its exit status.

    *reload* reads the configuration again, for SIGHUP. Raises `ConfigError` for
    what keeps the daemon from starting.
    """
    state = StateDirectory(config)
    listeners = listen(parse_address(config.daemon.listen), config.server.backlog)
    use_pidfds()

    with contextlib.ExitStack() as stack:
        for listener in listeners:
            stack.enter_context(listener)

        return asyncio.run(_Daemon(config, state, listeners, reload).run())


def listen(address: Address, backlog: int) -> list[socket.socket]:
    """Return a listening socket for each address of the host.

    With port 0 all have the same free one. Raises `ConfigError`.
    """
    try:
        found = socket.getaddrinfo(
            address.host,
            address.port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
    except (OSError, ValueError) as error:
        # A name that cannot even be looked up is a ValueError.
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"cannot listen on {address}: {why}") from error

    sockets: list[socket.socket] = []
    port = address.port

    for family, _, _, _, target in found:
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((target[0], port, *target[2:]))
            sock.listen(backlog)
        except OSError as error:
            for each in sockets:
                each.close()

            raise ConfigError(
                f"cannot listen on {address}: {os.strerror(error.errno or 0)};"
                " choose another with --listen"
            ) from error

        port = sock.getsockname()[1]

    return sockets


class _Daemon:
    """One run of the daemon; *listeners* are handed to each server."""

    def __init__(
        self,
        config: Config,
        state: StateDirectory,
        listeners: list[socket.socket],
        reload: Callable[[], Config],
    ) -> None:
        self._config = config
        self._state = state
        self._listeners = listeners
        self._reload = reload
        self._stopping = asyncio.Event()
        self._server: asyncio.subprocess.Process | None = None
        self._keeper: Keeper

    async def run(self) -> int:
        self._keeper = Keeper(self._config, self._prepare_cgroups())
        self._keeper.adopt_orphans()
        self._state.write_pid("keeper", os.getpid())
        loop = asyncio.get_running_loop()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)

        loop.add_signal_handler(signal.SIGHUP, self._hang_up)

        try:
            await self._keeper.clear_leftovers()
            return await self._serve()
        finally:
            await self._keeper.close()
            self._state.clear()

    def _prepare_cgroups(self) -> CgroupDriver:
        driver = detect()

        if driver.reason is not None:
            log.warning("jobs cannot be limited: %s", driver.reason)

        try:
            driver.prepare()
        except CgroupError as error:
            raise ConfigError(str(error)) from error

        return driver

    async def _serve(self) -> int:
        backoff = _BACKOFF_FIRST
        was_ready = False

        while True:
            code = await self._run_server()
            is_ready = code is not None and self._keeper.ready.is_set()
            was_ready = was_ready or is_ready
            backoff = _BACKOFF_FIRST if is_ready else backoff

            if self._stopping.is_set():
                return 0

            if not was_ready:
                return 1

            log.error("the server ended with status %s; starting another", code)

            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff)
                return 0

            backoff = min(2 * backoff, _BACKOFF_MOST)

    async def _run_server(self) -> int | None:
        """Return the status that a server ended with, None if none could start."""
        try:
            server = await self._start_server()
        except OSError as error:
            log.error("no server can be started: %s", error)
            return None

        if self._stopping.is_set():
            # While it was being started there was nobody to tell.
            self._end_server()

        announce = asyncio.create_task(self._announce())
        code = await server.wait()
        announce.cancel()
        self._keeper.forget_child(server.pid)
        return code

    async def _start_server(self) -> asyncio.subprocess.Process:
        ours, theirs = socket.socketpair()
        listeners = [listener.fileno() for listener in self._listeners]

        with theirs, self._keeper.launching(), contextlib.ExitStack() as stack:
            stack.callback(ours.close)
            self._server = await spawn(
                "teleworkerd.server",
                *map(str, (theirs.fileno(), *listeners)),
                descriptors=(theirs.fileno(), *listeners),
                own_session=True,
            )
            self._keeper.keep_child(self._server.pid)
            stack.pop_all()

        self._state.write_pid("server", self._server.pid)
        await self._keeper.connect(ours)
        return self._server

    async def _announce(self) -> None:
        await self._keeper.ready.wait()
        addresses = [_address_of(listener) for listener in self._listeners]
        self._state.write_address(addresses[0])
        notify("READY=1")
        log.info("ready; listening on %s", ", ".join(addresses))

    def _stop(self) -> None:
        if self._stopping.is_set():
            self._kill_server()
            return

        self._stopping.set()
        log.info("ending: jobs have %g s", self._config.jobs.shutdown_grace)
        notify("STOPPING=1")
        asyncio.get_running_loop().call_later(
            self._config.jobs.shutdown_grace + _GOODBYE, self._kill_server
        )

        self._end_server()

    def _end_server(self) -> None:
        if not self._keeper.ask_shutdown():
            self._kill_server()

    def _kill_server(self) -> None:
        if self._server is not None and self._server.returncode is None:
            self._server.kill()

    def _hang_up(self) -> None:
        try:
            config = self._reload()
        except ConfigError as error:
            # Who was revoked is out all the same: certificates are read again.
            log.error("the configuration stays as it was: %s", error)
            self._keeper.configure(self._config)
            return

        # Where we are and listen cannot change while we are there.
        here = self._config.daemon
        fixed = replace(config.daemon, listen=here.listen, state_dir=here.state_dir)
        self._config = replace(config, daemon=fixed)
        self._keeper.configure(self._config)


def _address_of(sock: socket.socket) -> str:
    host, port, *_ = sock.getsockname()
    return str(Address(host, port))
