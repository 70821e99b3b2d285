"""How long to go on connecting again, and when to try next."""

import math
import os
from collections.abc import Mapping
from typing import Final

from teleworkerd.protocol.errors import ConnectionClosed
from teleworkerd.protocol.records import record
from twctl.profile import BadSetting


VARIABLE: Final = "TWCTL_RETRY_FOR"

FIRST_PAUSE: Final = 0.02  # seconds; a restarted server is back soon
LONGEST_PAUSE: Final = 5.0  # seconds
STABLE_AFTER: Final = 10.0  # seconds; what a session lived to end an outage
FIRST_TRY: Final = 2.0  # seconds; somebody waits to be told of a wrong port


class GaveUp(ConnectionClosed):
    """The connection was lost and not made again; *tried* is for how many seconds."""

    def __init__(self, message: str, *, tried: float = 0.0) -> None:
        super().__init__(message)
        self.tried = tried


def gave_up(error: Exception, *, tried: float) -> GaveUp:
    """Return what to raise when *error* was the last after *tried* seconds."""
    seconds = f"{round(tried, 1):g} s"
    return GaveUp(f"gave up connecting again after {seconds} ({error})", tried=tried)


@record
class Patience:
    """For how many seconds to go on connecting again; 0 is not at all.

    *refused* counts while the host answers that nothing listens there. That host
    is up, so what should listen is gone or is being started, which is quick.
    *silent* counts for all else: a change of network, or a host that starts.
    """

    silent: float = 300.0
    refused: float = 30.0

    def at_most(self, seconds: float) -> "Patience":
        """Return this, or *seconds* where that is less."""
        return Patience(min(self.silent, seconds), min(self.refused, seconds))


def patience(
    retry_for: float | None = None, *, environ: Mapping[str, str] = os.environ
) -> Patience:
    """Return the patience of *retry_for* seconds, whatever is wrong.

    None stands for what `TWCTL_RETRY_FOR` says, or the defaults. Raises
    `BadSetting` when it says nothing that can be.
    """
    if retry_for is None:
        if not (text := environ.get(VARIABLE)):
            return Patience()

        retry_for = _parse(text)

    return Patience(retry_for, retry_for)


def _parse(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan

    if not 0 <= seconds < math.inf:
        raise BadSetting(
            f"{VARIABLE}={text!r} is not a number of seconds; set it to 0 to end at"
            " the first lost connection, to 60 to try for a minute, or not at all"
        )

    return seconds


class Outage:
    """From the loss of a session until one lasts; times are a clock's seconds.

    Sessions that are lost again soon do not end it. But whoever hears from the
    server meanwhile has all of the patience again at the next loss, and whoever
    got an answer also the short pauses.
    """

    def __init__(self, patience: Patience) -> None:
        self.is_answered = False  # since the last loss
        self._is_alive = False
        self._patience = patience
        self._attempts = 0
        self._since: float | None = None
        self._refused_since: float | None = None

    def lost(self, now: float) -> None:
        """Note that there is no session any more."""
        if self._since is None or self._is_alive:
            self._since = now

        self.is_answered = self._is_alive = False
        self._refused_since = None

    def heard(self) -> None:
        """Note that the server does what it was asked, but without an answer yet."""
        self._is_alive = True

    def answered(self) -> None:
        """Note that something was got out of the present session."""
        self.is_answered = self._is_alive = True
        self._attempts = 0

    def failed(self, now: float, *, refused: bool) -> None:
        """Note that an attempt failed; *refused*, since nothing listens there."""
        if not refused:
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = now

    @property
    def deadline(self) -> float:
        """When to give up."""
        latest = (self._since or 0.0) + self._patience.silent

        if self._refused_since is None:
            return latest

        return min(latest, self._refused_since + self._patience.refused)

    def tried(self, now: float) -> float:
        """Return for how many seconds there has been no sign of the server."""
        return now - (now if self._since is None else self._since)

    def next_pause(self, now: float, *, at_least: float = 0.0) -> float | None:
        """Return for how long to wait until the next attempt; None is give up.

        The last attempt is at the deadline, though the server wants to be left alone
        for *at_least* so long. There is chance in it, so that clients that were cut
        off together do not come back together.
        """
        if now >= self.deadline:
            return None

        ceiling = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._attempts, 16))
        pause = ceiling * (0.5 + os.urandom(1)[0] / 512)
        self._attempts += 1
        return min(at_least + pause, self.deadline - now)
