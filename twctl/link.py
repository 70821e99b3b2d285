"""One server over as many sessions as it takes: reconnects and asks again."""

import asyncio
import random
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Final, TypeVar

from teleworkerd.protocol.errors import Cancelled, ConnectionClosed, Unavailable
from teleworkerd.protocol.messages import OutputRequest, Request, Response, WaitRequest
from teleworkerd.protocol.types import JobStatus
from twctl.opening import open_session
from twctl.profile import Profile
from twctl.session import Session
from twctl.subscription import WINDOW, Chunk
from twctl.tls import ConnectionRejected, client_context


RETRY_FOR: Final = 300.0  # seconds; a daemon's restart or a change of network
FIRST_PAUSE: Final = 0.02  # seconds; a restarted server is back soon
LONGEST_PAUSE: Final = 5.0  # seconds
STABLE_AFTER: Final = 10.0  # seconds; what a session lived to end an outage

A = TypeVar("A", bound=Response)


class Link:
    """Asks on the present session and, when that is lost, on the next.

    An outage lasts from the loss of a session until the server has answered
    again; it may last *retry_for* seconds (0: not at all). *notice* is called
    once for each, with a sentence.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        retry_for: float = RETRY_FOR,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        self.profile = profile
        self._retry_for = retry_for
        self._notice = notice
        self._context: ssl.SSLContext | None = None
        self._session: Session | None = None
        self._recovering = asyncio.Lock()
        self._outage: _Outage | None = None

    @property
    def is_up(self) -> bool:
        """Whether there is a session and it has not been lost."""
        return self._session is not None and not self._session.is_closed

    async def open(self) -> None:
        """Connect for the first time; a failure is raised, not tried again."""
        self._context = client_context(self.profile)
        self._session = await open_session(self.profile, self._context)

    async def close(self) -> None:
        """End the session; whatever waits on it fails."""
        self._context = None

        if self._session is not None:
            await self._session.close()

    async def ask(
        self, request: Request, response: type[A], *, again: bool = True
    ) -> A:
        """Return the response to *request*; asked *again* when the connection broke.

        Raises `RequestError`, or `ConnectionClosed` when the outage lasts too long.
        """
        while True:
            session = await self._present()

            try:
                received = await session.ask(request, response)
            except ConnectionRejected:
                raise
            except ConnectionClosed as error:
                if not again:
                    raise

                await self._recover(session, error)
            except (Unavailable, Cancelled) as error:
                if self._outage is None and not isinstance(request, WaitRequest):
                    raise

                await self._recover(session, error)
            else:
                self._outage = None
                return received

    async def read(
        self, request: OutputRequest
    ) -> AsyncGenerator[Chunk | JobStatus, None]:
        """Yield the chunks that *request* asks for, each byte once and in order.

        Goes on from the next offset after a lost connection. The last item is
        the job's status if the output is complete.
        """
        request = replace(request, credit=WINDOW)

        while True:
            session = await self._present()

            try:
                subscription, cancel = await session.subscribe(request)

                try:
                    async with aclosing(subscription.chunks()) as chunks:
                        async for chunk in chunks:
                            self._outage = None
                            request = replace(request, offset=chunk.stop)
                            yield chunk
                finally:
                    cancel()

                end = subscription.end

                if end is not None and end.complete and end.status is not None:
                    yield end.status

                if end is not None and (end.complete or not request.follow):
                    return

                error: Exception = ConnectionClosed("the server ended the output early")
            except ConnectionRejected:
                raise
            except ConnectionClosed as lost:
                error = lost
            except Unavailable as refused:
                if self._outage is None:
                    raise

                error = refused

            await self._recover(session, error)

    async def _present(self) -> Session:
        while self._session is not None and self._context is not None:
            if not self._session.is_closed:
                return self._session

            await self._recover(self._session, self._session.lost())

        raise ConnectionClosed("the client is not connected; use 'async with'")

    async def _recover(self, lost: Session, error: Exception) -> None:
        """Return when there is another session than *lost*, or raise."""
        async with self._recovering:
            if self._session is not lost:
                return  # somebody else who waited on it was first

            if self._retry_for <= 0 or self._context is None:
                raise error

            now = asyncio.get_running_loop().time()

            if self._outage is None or now - lost.opened_at > STABLE_AFTER:
                self._outage = _Outage(now + self._retry_for)
                self._say(error)

            lost.abort()
            self._session = await self._reopen(self._outage, error)

    async def _reopen(self, outage: "_Outage", error: Exception) -> Session:
        while True:
            await outage.pause(error)
            context = self._context

            if context is None:
                raise ConnectionClosed("the client was closed") from error

            try:
                return await open_session(self.profile, context)
            except ConnectionRejected:
                raise
            except (ConnectionClosed, Unavailable) as again:
                error = again

    def _say(self, error: Exception) -> None:
        if self._notice is not None:
            self._notice(f"{error}; connecting again")


class _Outage:
    """How long the server has been away, and when to try next."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._attempts = 0

    async def pause(self, error: Exception) -> None:
        """Wait until the next attempt; raises when it would be too late."""
        ceiling = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._attempts, 16))
        pause = ceiling * random.uniform(0.5, 1)  # noqa: S311 - spreads clients only
        self._attempts += 1

        if asyncio.get_running_loop().time() + pause > self._deadline:
            raise ConnectionClosed(f"gave up connecting again: {error}") from error

        await asyncio.sleep(pause)
