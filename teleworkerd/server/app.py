"""The server process as a whole: from the keeper's welcome to its shutdown."""

import asyncio
import codecs
import importlib
import logging
import socket
import time
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Final

from teleworkerd import handover
from teleworkerd.certfiles import REVOCATIONS, CertificateFileError
from teleworkerd.config import Config
from teleworkerd.counters import Counters
from teleworkerd.execution import Caller
from teleworkerd.executors.keeper_link import KeeperLink
from teleworkerd.jobs.manager import JobManager
from teleworkerd.jobs.retention import Retention
from teleworkerd.jobs.succession import Circumstances
from teleworkerd.keeper.messages import Welcome
from teleworkerd.keeper.orders import Noted
from teleworkerd.log import set_up
from teleworkerd.privilege_drop import become
from teleworkerd.protocol.errors import PermissionDenied
from teleworkerd.protocol.types import Role
from teleworkerd.server.access import Access, has_less
from teleworkerd.server.auth import Principal
from teleworkerd.server.certificates import CertificateError
from teleworkerd.server.dispatch import Dispatcher
from teleworkerd.server.emergency import on_error
from teleworkerd.server.handlers import Service
from teleworkerd.server.listener import Listener
from teleworkerd.server.refusals import Refusals
from teleworkerd.server.sessions import SessionRegistry
from teleworkerd.server.tls import TlsError, server_context
from teleworkerd.server.trail import Trail
from teleworkerd.server.trust import Trust, warnings
from teleworkerd.spare import Spare
from teleworkerd.store import JobStore, StoreError


log = logging.getLogger(__name__)

_EXPORTER: Final = "teleworkerd.server.exporter"  # costs megabytes
_CODECS: Final = ("ascii", "idna", "latin-1")
SPARE: Final = 8  # descriptors: one for each thread that hashes or syncs


@dataclass(slots=True)
class _Parts:
    """What a new configuration is for; *files* is where certificates come from.

    `trust` is what the certificates say that are used now.
    """

    files: socket.socket
    trust: Trust
    manager: JobManager
    retention: Retention
    access: Access
    sessions: SessionRegistry
    listener: Listener

    def use(self, config: Config) -> str | None:
        """Use *config*, and the certificates that came with it; or return why not.

        Who would not be let in by them is sent away.
        """
        try:
            files = handover.take(self.files)
            context, trust = server_context(files), Trust(files)
        except (CertificateFileError, CertificateError, TlsError) as error:
            return str(error)

        _warn(warnings(files, time.time()))

        if self.trust.has_lists and not trust.has_lists:
            log.warning("%s is gone: nobody is revoked", files.path(REVOCATIONS))

        self.trust = trust
        before = self.access.config
        set_up(level=config.daemon.log_level, form=config.daemon.log_format)
        self.manager.configure(config)
        self.retention.configure(config.retention)
        self.access.configure(config.access)
        self.sessions.configure(config)
        self.listener.use(context, config.server)
        self.recheck(config)
        # Whoever reads what is not theirs to read any more would go on; they come
        # back, and are told.
        self.sessions.part_with(
            lambda name: has_less(config.access.role(name), than=before.role(name)),
            "your rights here have changed",
        )
        return None

    def recheck(self, config: Config) -> None:
        """Send away who would not be let in, now and from now on."""
        trust = self.trust
        self.sessions.recheck(lambda principal: _judge(principal, trust, config))


async def serve(
    channel: socket.socket,
    files: socket.socket,
    listeners: list[socket.socket],
    *,
    state_dir: str | None = None,
) -> None:
    """Be the server for the keeper at the other end of *channel*.

    It gives us the certificate files by *files*. *state_dir* as in `KeeperLink`.
    Returns when the keeper wants it to, or is gone. Raises `TeleworkerError` for
    what keeps it from starting, or from going on.
    """
    asyncio.get_running_loop().set_exception_handler(on_error)
    link = KeeperLink(state_dir)
    welcome = await link.welcome(channel)
    config = welcome.config
    set_up(level=config.daemon.log_level, form=config.daemon.log_format)
    given = handover.take(files)
    context = server_context(given)
    trust = Trust(given)
    _warn(warnings(given, time.time()))
    store = await JobStore(config.database).open()

    counters, spare = Counters(), Spare(SPARE)

    async with AsyncExitStack() as stack:
        stack.callback(spare.close)
        stack.push_async_callback(store.close)
        _give_up_root(welcome, store)
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
        trail = Trail(link.note)
        access = Access(config.access, manager, trail)
        service = Service(
            manager,
            access,
            trail,
            welcome,
            lambda: len(sessions),
            counters,
            accounts=lambda name: _accounts(manager.config, welcome, name),
            keeper_open_files=lambda: link.keeper_open_files,
        )
        dispatcher = Dispatcher(service, counters)
        refusals = Refusals(counters, noted=partial(_note_refusal, link))
        sessions = SessionRegistry(config, dispatcher, counters, refusals)
        listener = Listener(
            listeners,
            context,
            sessions.create,
            config.server,
            refusals,
            spare=spare,
        )
        await stack.enter_async_context(_metrics(config, service))
        parts = _Parts(files, trust, manager, retention, access, sessions, listener)
        parts.recheck(config)
        link.reload = parts.use
        listener.start()
        link.ready()
        removing = asyncio.create_task(retention.run())
        await _first_of(link.over, store.lost)
        removing.cancel()
        await asyncio.gather(removing, return_exceptions=True)
        await listener.close()

        if link.is_leaving:
            await manager.leave()
        elif not (link.gone.is_set() or store.lost.is_set()):
            await _end_jobs(manager, link)
            await sessions.finish()

        is_over = link.over.is_set() and not link.is_leaving
        await sessions.close(
            "the server is shutting down" if is_over else "the server ends, jobs go on"
        )
        trail.flush()
        manager.close()

    if store.lost.is_set():
        raise StoreError("the database is broken: the next server begins it anew")


def _judge(
    principal: Principal, trust: Trust, config: Config
) -> PermissionDenied | None:
    if config.access.role(principal.name) is Role.DENY:
        return PermissionDenied(f"{principal.name} is not admitted here any more")

    return trust.refusal(principal, time.time())


def _note_refusal(link: KeeperLink, by: Caller, reason: str, count: int) -> None:
    link.note(Noted("refuse", "refused", reason, by=by, count=count))


def _warn(sentences: list[str]) -> None:
    for sentence in sentences:
        log.warning("%s", sentence)


def _accounts(config: Config, welcome: Welcome, name: str) -> tuple[str, ...]:
    """Return the accounts of *name*; none where the keeper has no choice."""
    return () if welcome.account is None else config.jobs.accounts(name)


def _give_up_root(welcome: Welcome, store: JobStore) -> None:
    """Become whom the keeper says, before the first byte from the network.

    What is opened by then stays open; nothing else of root's can be opened any more.
    What the last server has written is believed only from then on.
    """
    if welcome.account is not None:
        if welcome.config.metrics.listen:
            importlib.import_module(_EXPORTER)

        # Python itself may be out of the reach of the account: what it would load
        # only when it needs it is loaded now.
        for name in _CODECS:
            codecs.lookup(name)

        store.give_to(welcome.account.gid)
        become(welcome.account)
        log.info("serving as %s", welcome.account.name)


def _metrics(config: Config, service: Service) -> AbstractAsyncContextManager[object]:
    """Return what tells Prometheus how we are, if *config* wants that."""
    if not config.metrics.listen:
        return nullcontext()

    from teleworkerd.server.exporter import exporter_of  # noqa: PLC0415  costs megabytes

    return exporter_of(config, service)


async def _first_of(*events: asyncio.Event) -> None:
    tasks = [asyncio.create_task(event.wait()) for event in events]

    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()

        await asyncio.gather(*tasks, return_exceptions=True)


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
