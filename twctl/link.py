"""One server over as many sessions as it takes: reconnects and asks again."""

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Final, TypeVar

from teleworkerd.protocol.errors import (
    Cancelled,
    ConnectionClosed,
    RequestError,
    TooMany,
    Unavailable,
)
from teleworkerd.protocol.messages import (
    InterleaveRequest,
    OutputRequest,
    Request,
    Response,
    WaitRequest,
)
from twctl.advice import advice
from twctl.credentials import read_credentials
from twctl.opening import open_session
from twctl.outage import FIRST_TRY, STABLE_AFTER, GaveUp, Outage, gave_up, patience
from twctl.place import Place
from twctl.profile import Profile
from twctl.rejection import AccessWithdrawn, ConnectionRejected, asked_pause
from twctl.session import Session
from twctl.tls import client_context, is_cut_off


LAST_TRY: Final = 1.0  # seconds that an attempt has, however late it is

A = TypeVar("A", bound=Response)


class Link:
    """Asks on the present session and, when that is lost, on the next.

    *retry_for* bounds an outage, as in `patience`. *notice* is called once for
    each, with a sentence. A link that is lost again and again is one outage, and
    is used as long as anything gets through. *warn* is called, once there is a
    session, with a sentence for each certificate of ours that ends soon. `places` are
    those of all who read output: who gives up is told how to go on.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        retry_for: float | None = None,
        notice: Callable[[str], None] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self.profile = profile
        self._patience = patience(retry_for)
        self._notice = notice
        self._warn = warn
        self._context: ssl.SSLContext | None = None
        self._session: Session | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._outage: Outage | None = None
        self.places: list[Place] = []

    @property
    def is_up(self) -> bool:
        """Whether there is a session and it has not been lost."""
        return self._session is not None and not self._session.is_closed

    def now(self) -> int:
        """Return what the server's clock shows, in ns since the epoch."""
        return time.time_ns() if self._session is None else self._session.now()

    async def open(self) -> None:
        """Connect for the first time; raises what `open_session` does.

        Only who is cut off before the hello tries again, as protocol.md,
        "Transport", has it, for a short time.
        """
        loop = asyncio.get_running_loop()
        credentials = read_credentials(self.profile)
        context = client_context(credentials)
        outage = Outage(self._patience.at_most(FIRST_TRY))
        outage.lost(loop.time())

        while True:
            try:
                self._session = await open_session(self.profile, context)
            except ConnectionClosed as error:
                pause = outage.next_pause(loop.time())

                if pause is None or not is_cut_off(error):
                    raise

                await asyncio.sleep(pause)
            else:
                self._context = context
                break

        if self._warn is not None:
            for warning in credentials.ending(time.time()):
                self._warn(warning)

    async def close(self) -> None:
        """End the session; whatever waits on it fails."""
        self._context = None

        try:
            if self._recovery is not None:
                self._recovery.cancel()
                await asyncio.wait([self._recovery])

            if self._session is not None:
                await self._session.close()
        finally:
            if self._session is not None:
                self._session.abort()

    async def ask(
        self, request: Request, response: type[A], *, again: bool = True
    ) -> A:
        """Return the response to *request*; asked *again* when the connection broke.

        Raises `RequestError`, or `ConnectionClosed` when the outage lasts too long.
        """
        while True:
            session = await self.present(request)

            try:
                received = await session.ask(request, response)
            except ConnectionClosed as error:
                if not again:
                    raise

                if isinstance(request, WaitRequest):
                    self.heard()  # silence is what a wait hears

                await self.go_on(session, error, request)
            except (Unavailable, TooMany, Cancelled) as error:
                await self.go_on(session, error, request)
            except RequestError:
                self.answered()
                raise
            else:
                self.answered()
                return received

    def heard(self) -> None:
        """Note that the server does what it was asked, though nothing came of it."""
        if self._outage is not None:
            self._outage.heard()

    def answered(self) -> None:
        """Note that something came on the present session."""
        if self._outage is not None:
            self._outage.answered()

    async def go_on(self, lost: Session, error: Exception, request: Request) -> None:
        """Return when *request*, which *lost* could not take, may be asked again.

        Raises *error* if it says more than that the connection broke, or that the
        server could not take the request again so soon.
        """
        match error:
            case ConnectionRejected():
                raise error
            case ConnectionClosed():
                await self._recover(lost, error, request)
            case Unavailable() | TooMany() if self._is_counted_still(lost):
                await self._pause(error)
            case Unavailable() | Cancelled() if isinstance(request, WaitRequest):
                # The server ends, and the next one takes it.
                await self._recover(lost, error, request)
            case _:
                raise error

    async def present(self, request: Request) -> Session:
        """Return a session that stands; raises what the attempts to make one do."""
        while self._session is not None and self._context is not None:
            if not self._session.is_closed:
                return self._session

            error = self._session.lost()

            if isinstance(error, AccessWithdrawn):
                raise error

            await self._recover(self._session, error, request)

        raise ConnectionClosed("the client is not connected; use 'async with'")

    def _is_counted_still(self, session: Session) -> bool:
        """Whether the server may not know yet that the session before is lost.

        What was asked there then takes the room of what is asked on *session*.
        """
        is_new = session.lived < STABLE_AFTER
        return is_new and self._outage is not None and not self._outage.is_answered

    async def _pause(self, error: Exception) -> None:
        """Leave the server alone for a while, or raise *error* when that is too long.

        The session is left to others, and as it is.
        """
        assert self._outage is not None  # noqa: S101 - there was one to come here
        now = asyncio.get_running_loop().time()
        pause = self._outage.next_pause(now, at_least=asked_pause(error) or 0)

        if pause is None:
            raise error

        await asyncio.sleep(pause)

    async def _recover(self, lost: Session, error: Exception, request: Request) -> None:
        """Return when there is another session than *lost*, or raise.

        Everybody who waits for one waits for the same.
        """
        if self._session is not lost:
            return

        if self._recovery is None or self._recovery.done():
            if self._context is None:
                raise error

            if not self._patience.silent:
                raise GaveUp(f"{error}{self._advice(request)}") from error

            lost.abort()
            self._recovery = asyncio.create_task(
                self._reopen(self._context, self._outage_of(lost, error), error)
            )
            self._recovery.add_done_callback(_retrieve)

        recovery = self._recovery
        # Who is cancelled meanwhile leaves it to the others.
        await asyncio.wait([recovery])

        if recovery.cancelled():
            raise ConnectionClosed("the client was closed") from error

        try:
            recovery.result()
        except GaveUp as last:
            # Each who waited is told of its own job, by an error of its own.
            raise GaveUp(
                f"{last}{self._advice(request)}", tried=last.tried
            ) from last.__cause__

    def _outage_of(self, lost: Session, error: Exception) -> Outage:
        if self._outage is None or lost.lived >= STABLE_AFTER:
            self._outage = Outage(self._patience)

            if self._notice is not None:
                self._notice(f"{error}; connecting again")

        self._outage.lost(asyncio.get_running_loop().time())
        return self._outage

    async def _reopen(
        self, context: ssl.SSLContext, outage: Outage, error: Exception
    ) -> None:
        """Put another session in place of the lost one."""
        loop = asyncio.get_running_loop()

        while True:
            asked = asked_pause(error) or 0
            pause = outage.next_pause(loop.time(), at_least=asked)

            if pause is None:
                break

            await asyncio.sleep(pause)
            latest = max(outage.deadline, loop.time() + LAST_TRY)

            try:
                async with asyncio.timeout_at(latest):
                    self._session = await open_session(self.profile, context)
            except ConnectionRejected:
                raise
            except (ConnectionClosed, Unavailable, TooMany) as again:
                error = again
                refused = isinstance(error.__cause__, ConnectionRefusedError)
                outage.failed(loop.time(), refused=refused)
            except TimeoutError:
                continue
            else:
                return

        self._outage = None  # who asks once more has all of the patience again
        tried = outage.tried(loop.time())
        raise gave_up(error, tried=tried) from error

    def _advice(self, request: Request) -> str:
        if not isinstance(request, OutputRequest | InterleaveRequest):
            return advice(request)

        commands = {
            place.command
            for place in self.places
            if place.request.job == request.job and place.has_command
        }
        return advice(request, sorted(commands))


def _retrieve(recovery: asyncio.Task[None]) -> None:
    # Whoever waited for it may be gone.
    if not recovery.cancelled():
        recovery.exception()
