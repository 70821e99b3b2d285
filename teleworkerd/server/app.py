"""The server process as a whole: from the keeper's welcome to its shutdown."""

import asyncio
import logging
import socket
from functools import partial

from teleworkerd.config import Config
from teleworkerd.executors.keeper_link import KeeperLink
from teleworkerd.jobs.manager import JobManager
from teleworkerd.jobs.retention import Retention
from teleworkerd.log import set_up
from teleworkerd.protocol.errors import Unavailable
from teleworkerd.server.dispatch import Dispatcher
from teleworkerd.server.handlers import Service
from teleworkerd.server.listener import Listener
from teleworkerd.server.session import Session
from teleworkerd.server.tls import TlsError, server_context
from teleworkerd.store import JobStore


log = logging.getLogger(__name__)


class SessionRegistry:
    """All sessions that there are, and the means to make more."""

    def __init__(self, config: Config, dispatcher: Dispatcher) -> None:
        self._config = config
        self._dispatcher = dispatcher
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
            self._config, self._dispatcher, opened=self._opened, closed=self._closed
        )

    async def close(self, message: str) -> None:
        """Say goodbye to everybody, and wait until they are gone."""
        for session in list(self._sessions):
            session.say_goodbye(message)

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
    link = KeeperLink()
    welcome = await link.welcome(channel)
    config = welcome.config
    set_up(level=config.daemon.log_level, form=config.daemon.log_format)
    context = server_context(config.certs)
    store = await JobStore(config.database).open()

    try:
        manager = JobManager(executor=link.executor, store=store, config=config)
        await manager.load()
        retention = Retention(manager, config.retention)
        service = Service(manager, welcome, lambda: len(sessions))
        sessions = SessionRegistry(config, Dispatcher(service))
        listener = Listener(listeners, context, sessions.create, config.server)
        link.reloaded = partial(_reload, manager, retention, sessions, listener)
        listener.start()
        link.ready()
        removing = asyncio.create_task(retention.run())
        await link.over.wait()
        removing.cancel()
        await asyncio.gather(removing, return_exceptions=True)
        await listener.close()

        if not link.gone.is_set():
            await _end_jobs(manager, link)

        await sessions.close("the server is shutting down")
        manager.close()
    finally:
        await store.close()


def _reload(
    manager: JobManager,
    retention: Retention,
    sessions: SessionRegistry,
    listener: Listener,
    config: Config,
) -> None:
    set_up(level=config.daemon.log_level, form=config.daemon.log_format)
    manager.configure(config)
    retention.configure(config.retention)
    sessions.configure(config)

    try:
        context = server_context(config.certs)
    except TlsError as error:
        log.error("new settings are used; the certificates stay: %s", error)
        return

    listener.use(context)
    log.info("settings and certificates that hold now are used for what begins now")


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
