"""All clients that there are, and what they may have at most."""

import asyncio
import resource
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from teleworkerd.config import Config
from teleworkerd.counters import Counters
from teleworkerd.protocol.errors import (
    PermissionDenied,
    RequestError,
    TooMany,
    Unavailable,
)
from teleworkerd.protocol.messages import (
    EventsRequest,
    InterleaveRequest,
    OutputRequest,
    Request,
    TopRequest,
)
from teleworkerd.protocol.types import Role
from teleworkerd.server.auth import Principal
from teleworkerd.server.refusals import Refusals
from teleworkerd.server.session import Dispatch, Session


Judge = Callable[[Principal], RequestError | None]
"""Says why a client that was let in may not stay; None: it may."""

_OTHER_FILES: Final = 96  # descriptors that are not for clients
_FINISH: Final = 5.0  # seconds for clients to take the ends of their jobs
_ABORT: Final = 1.0  # seconds for a connection to end that is ended by force
_RETRY: Final = 5  # seconds
_REFUSED: Final = 64  # connections that are refused and may still read why


class SessionRegistry:
    """All sessions that there are, and the means to make more."""

    def __init__(
        self,
        config: Config,
        dispatcher: Dispatch,
        counters: Counters,
        refusals: Refusals,
    ) -> None:
        self._config = config
        self._dispatcher = dispatcher
        self._counters = counters
        self._refusals = refusals
        self._sessions: set[Session] = set()
        self._strangers: dict[Session, None] = {}  # not let in, oldest first
        self._by_name: Counter[str] = Counter()  # of those that were let in
        self._followers: Counter[str] = Counter()
        self._judge: Judge | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._sessions)

    def configure(self, config: Config) -> None:
        """Use *config* for the clients to come."""
        self._config = config

    def create(self, arrived: Callable[[], None]) -> Session:
        """Return the protocol for a new client; it calls *arrived* once it is there."""
        return Session(
            self._config,
            self._dispatcher,
            self,
            arrived=arrived,
            counters=self._counters,
            refusals=self._refusals,
        )

    def recheck(self, judge: Judge) -> None:
        """Send away everybody for whom *judge* has an error, now and from now on.

        Who comes later may have begun a handshake by what held before.
        """
        self._judge = judge

        for session in self._sessions - self._strangers.keys():
            if (error := judge(session.principal)) is not None:
                session.dismiss(error)

    def part_with(self, is_meant: Callable[[str], bool], message: str) -> None:
        """Say goodbye to who has a name that *is_meant*; they may come again."""
        for session in self._sessions - self._strangers.keys():
            if is_meant(session.principal.name):
                session.say_goodbye(message)

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

        self._refusals.flush()

    # What sessions call

    def came(self, session: Session) -> None:
        """Take *session* in; nobody knows yet whose it is."""
        self._sessions.add(session)
        self._empty.clear()
        self._strangers[session] = None

        if len(self._strangers) > _REFUSED:
            next(iter(self._strangers)).abort()

    def admit(self, session: Session) -> None:
        """Let its client in; raises `PermissionDenied`, `TooMany`, `Unavailable`."""
        name = session.principal.name
        role = self._config.access.role(name)

        if role is Role.DENY:
            raise PermissionDenied(f"{name} is not admitted here")

        if self._judge is not None and (error := self._judge(session.principal)):
            raise error

        self._check_room(name, is_admin=role is Role.ADMIN)
        del self._strangers[session]
        self._by_name[name] += 1

    def begin(self, session: Session, request: Request) -> None:
        """Let its client have *request* done; raises `TooMany`."""
        if not _follows(request):
            return

        name, most = session.principal.name, self._config.clients.followers

        if self._followers[name] >= most:
            raise TooMany(
                f"{name} follows as many streams as one name may, {most}; end some of"
                " that, or ask the operator for more [clients] followers",
                {"what": "followers", "most": most},
            )

        self._followers[name] += 1

    def end(self, session: Session, request: Request) -> None:
        """Note that nothing is done for *request* any more."""
        if _follows(request):
            _decrease(self._followers, session.principal.name)

    def left(self, session: Session) -> None:
        """Forget *session*, whose connection is gone."""
        self._sessions.discard(session)

        if session in self._strangers:
            del self._strangers[session]
        else:
            _decrease(self._by_name, session.principal.name)

        if not self._sessions:
            self._empty.set()

    def _check_room(self, name: str, *, is_admin: bool) -> None:
        server, own = self._config.server, self._config.clients.connections

        if not is_admin and self._by_name[name] >= own:
            raise TooMany(
                f"{name} has as many connections as one name may, {own}; close some,"
                " or try again later",
                {"what": "connections", "most": own, "retry_after": _RETRY},
            )

        # Each needs a descriptor, and so do the digests and syncs of jobs.
        room = max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHER_FILES)
        most = min(server.connections, room)

        if not is_admin:
            most = max(1, most - server.reserved)

        if len(self._sessions) - len(self._strangers) >= most:
            raise Unavailable(
                f"the server has {most} connections, which is all it takes; try again"
                " later",
                {"retry_after": _RETRY},
            )


def _follows(request: Request) -> bool:
    if isinstance(request, TopRequest):
        return True

    kinds = OutputRequest | InterleaveRequest | EventsRequest
    return isinstance(request, kinds) and request.follow


def _decrease(counter: Counter[str], name: str) -> None:
    counter[name] -= 1

    if not counter[name]:
        del counter[name]
