"""Passes the signals that `twctl run -f` gets on to its job."""

import asyncio
import signal
from types import TracebackType
from typing import Final, Self

from teleworkerd.protocol.errors import TeleworkerError
from twctl.client import Client
from twctl.job import RemoteJob
from twctl.render import print_notice


FORWARDED: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
# At a terminal these reach all that a shell or `make` has started, which wait for it.
TO_ALL: Final = frozenset({signal.SIGINT, signal.SIGQUIT})
ENDING: Final = frozenset(FORWARDED) - {signal.SIGUSR1, signal.SIGUSR2}
AGAIN_WITHIN: Final = 1.0  # seconds between the two INTs that kill the job
_LAST_WITHIN: Final = 1.0  # seconds in which the last ones have to be sent


class Forwarder:
    """Catches signals while it is entered, and sends them once there is a job.

    One that asks to end but cannot reach the job, because there is no connection
    or, at the second INT, no job yet, cancels the task that made the forwarder;
    `detached_by` says which; `left` is the job that somebody wanted to leave, by
    `detach`. The job goes on.
    """

    def __init__(self, client: Client) -> None:
        self.detached_by: signal.Signals | None = None
        self.left: RemoteJob | None = None
        self._client = client
        # What was ignored when we were started, as by nohup, stays ignored.
        self._forwarded = [
            number
            for number in FORWARDED
            if signal.getsignal(number) is not signal.SIG_IGN
        ]
        self._loop = asyncio.get_running_loop()
        self._owner = asyncio.current_task()
        self._signals: asyncio.Queue[signal.Signals | None] = asyncio.Queue()
        self._interrupted_at: float | None = None
        self._is_hung_up = False
        self._sending: asyncio.Task[None] | None = None
        self._job: RemoteJob | None = None

    def __enter__(self) -> Self:
        for number in self._forwarded:
            self._loop.add_signal_handler(number, self._caught, number)

        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number in self._forwarded:
            self._loop.remove_signal_handler(number)

    def begin(self, job: RemoteJob) -> None:
        """Send *job* what has been caught, and what will be."""
        self._job = job
        self._sending = self._loop.create_task(self._send(job))

    def detach(self) -> None:
        """Leave the job, as whoever follows it wants."""
        self.left = self._job

        if self._owner is not None:
            self._owner.cancel()

    def hang_up(self) -> None:
        """Take it that there is no terminal any more, for which SIGHUP comes late."""
        if signal.SIGHUP in self._forwarded and not self._is_hung_up:
            self._caught(signal.SIGHUP)
            self._is_hung_up = True

    async def end(self) -> None:
        """Send what has been caught, if that can be soon, and no more."""
        if self._sending is not None:
            self._signals.put_nowait(None)
            await asyncio.wait({self._sending}, timeout=_LAST_WITHIN)
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)

    def _caught(self, number: signal.Signals) -> None:
        if number is signal.SIGHUP and self._is_hung_up:
            return

        is_again = number is signal.SIGINT and self._interrupted_at is not None

        if number in ENDING and not self._client.is_up:
            self._detach(number, "there is no connection")
        elif is_again and self._job is None:
            self._detach(number, "the server has not answered")
        elif number is signal.SIGINT:
            self._signals.put_nowait(self._of_interrupt())
        else:
            self._signals.put_nowait(number)

    def _of_interrupt(self) -> signal.Signals:
        now, before = self._loop.time(), self._interrupted_at
        self._interrupted_at = now

        if before is None:
            _tell("SIGINT goes to the job; again within 1 s kills it")
        elif now - before < AGAIN_WITHIN:
            return signal.SIGKILL

        return signal.SIGINT

    def _detach(self, number: signal.Signals, why: str) -> None:
        what = "what has started" if self._job is None else f"job {self._job.id}"
        _tell(f"{why}; {what} goes on")
        self.detached_by = number

        if self._owner is not None:
            self._owner.cancel()

    async def _send(self, job: RemoteJob) -> None:
        while (number := await self._signals.get()) is not None:
            try:
                await job.kill(number, tree=number in TO_ALL)
            except TeleworkerError as error:
                _tell(f"{number.name} was not sent: {error}")


def _tell(text: str) -> None:
    print_notice(text, apart=True)
