"""The server process as a whole: from the keeper's welcome to its shutdown."""

import asyncio
import logging
import socket
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    nullcontext,
    suppress,
)
from functools import partial
from typing import Final

from teleworkerd.config import Config
from teleworkerd.counters import Counters
from teleworkerd.executors.keeper_link import KeeperLink
from teleworkerd.jobs.manager import JobManager
from teleworkerd.jobs.retention import Retention
from teleworkerd.jobs.succession import Circumstances
from teleworkerd.log import set_up
from teleworkerd.protocol.errors import Unavailable
from teleworkerd.server.dispatch import Dispatcher
from teleworkerd.server.emergency import on_error
from teleworkerd.server.handlers import Service
from teleworkerd.server.listener import Listener
from teleworkerd.server.session import Session
from teleworkerd.server.tls import TlsError, server_context
from teleworkerd.spare import Spare
from teleworkerd.store import JobStore


log = logging.getLogger(__name__)

SPARE: Final = 8  # descriptors: one for each thread that hashes or syncs

_FINISH: Final = 5.0  # seconds for clients to take the ends of their jobs
_ABORT: Final = 1.0  # seconds for a connection to end that is ended by force


class SessionRegistry:
    """All sessions that there are, and the means to make more."""

    def __init__(
        self,
        config: Config,
        dispatcher: Dispatcher,
        counters: Counters,
    ) -> None:
        self._config = config
        self._dispatcher = dispatcher
        self._counters = counters
        self._sessions: set[Session] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._sessions)

    def configure(self, config: Config) -> None:
        """Use *config* for the clients to come."""
        self._config = config

    def create(self) -> Session:
        """Return the protocol for a new client."""
        return Session(
            self._config,
            self._dispatcher,
            opened=self._opened,
            closed=self._closed,
            counters=self._counters,
        )

    async def finish(self) -> None:
        """Wait a little for what is under way; who does not read may not take it."""
        requests = [task for each in self._sessions for task in each.requests]

        if requests:
            await asyncio.wait(requests, timeout=_FINISH)

    async def close(self, message: str) -> None:
        """Say goodbye to everybody, and wait until they are gone."""
        for session in list(self._sessions):
            session.say_goodbye(message)

        limit = self._config.server.close_timeout + _ABORT

        # Whoever is not gone then is nowhere any more but in our books.
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._empty.wait()

    def _opened(self, session: Session) -> None:
        self._sessions.add(session)
        self._empty.clear()

        if len(self._sessions) > self._config.server.connections:
            raise Unavailable(
                f"the server has {self._config.server.connections} connections,"
                " which is all it takes; try again later",
                {"retry_after": 5},
            )

    def _closed(self, session: Session) -> None:
        self._sessions.discard(session)

        if not self._sessions:
            self._empty.set()


async def serve(channel: socket.socket, listeners: list[socket.socket]) -> None:
    """Be the server for the keeper at the other end of *channel*.

    Returns when the keeper wants it to, or is gone. Raises `TeleworkerError` for
    what keeps it from starting.
    """
    asyncio.get_running_loop().set_exception_handler(on_error)
    link = KeeperLink()
    welcome = await link.welcome(channel)
    config = welcome.config
    set_up(level=config.daemon.log_level, form=config.daemon.log_format)
    context = server_context(config.certs)
    store = await JobStore(config.database).open()

    counters, spare = Counters(), Spare(SPARE)

    async with AsyncExitStack() as stack:
        stack.callback(spare.close)
        stack.push_async_callback(store.close)
        manager = JobManager(
            executor=link.executor,
            store=store,
            config=config,
            counters=counters,
            spare=spare,
        )
        await manager.load(
            Circumstances(
                # One that did not come to serve has not looked at what came before.
                resume=welcome.has_served,
                was_rebooted=welcome.was_rebooted,
            )
        )
        retention = Retention(manager, config.retention)
        service = Service(manager, welcome, lambda: len(sessions), counters)
        dispatcher = Dispatcher(service, counters)
        sessions = SessionRegistry(config, dispatcher, counters)
        listener = Listener(
            listeners, context, sessions.create, config.server, counters, spare=spare
        )
        await stack.enter_async_context(_metrics(config, service))
        link.reload = partial(_reload, manager, retention, sessions, listener)
        listener.start()
        link.ready()
        removing = asyncio.create_task(retention.run())
        await link.over.wait()
        removing.cancel()
        await asyncio.gather(removing, return_exceptions=True)
        await listener.close()

        if link.is_leaving:
            await manager.leave()
        elif not link.gone.is_set():
            await _end_jobs(manager, link)
            await sessions.finish()

        await sessions.close(
            "the server ends, jobs go on"
            if link.is_leaving
            else "the server is shutting down"
        )
        manager.close()


def _metrics(config: Config, service: Service) -> AbstractAsyncContextManager[object]:
    """Return what tells Prometheus how we are, if *config* wants that."""
    if not config.metrics.listen:
        return nullcontext()

    from teleworkerd.server.exporter import exporter_of  # noqa: PLC0415  costs megabytes

    return exporter_of(config, service)


def _reload(
    manager: JobManager,
    retention: Retention,
    sessions: SessionRegistry,
    listener: Listener,
    config: Config,
) -> str | None:
    """Use *config*, and the certificates that it names; or return why not."""
    try:
        context = server_context(config.certs)
    except TlsError as error:
        return str(error)

    set_up(level=config.daemon.log_level, form=config.daemon.log_format)
    manager.configure(config)
    retention.configure(config.retention)
    sessions.configure(config)
    listener.use(context, config.server)
    return None


async def _end_jobs(manager: JobManager, link: KeeperLink) -> None:
    # A keeper that goes now will not tell that they have ended.
    tasks = [
        asyncio.create_task(manager.shut_down()),
        asyncio.create_task(link.gone.wait()),
    ]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)

    for task in tasks:
        task.cancel()

    await asyncio.gather(*tasks, return_exceptions=True)
