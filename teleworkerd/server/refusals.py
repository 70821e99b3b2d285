"""What is told of clients that are refused: each counts, a flood is a few lines."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from teleworkerd.counters import Counters, Refusal
from teleworkerd.execution import Caller
from teleworkerd.server.peer import Peer


log = logging.getLogger(__name__)

Noted = Callable[[Caller, str, int], None]
"""Takes who was refused, as far as that is known, why, and how often."""

_PERIOD: Final = 60.0  # seconds
_MOST: Final = 1024  # pairs of a source and a reason
_OTHERS: Final = "other sources"
_TICK: Final = 0.001  # seconds; a timer is no finer


@dataclass(slots=True)
class _Seen:
    """Of a source and a reason: how often again, from whom last, until when."""

    until: float
    count: int = 0
    peer: str = ""


class Refusals:
    """Counts refusals, and logs them without letting anybody flood the log.

    The first of a source for a reason is a line of its own, those that follow within
    *period* seconds are one line at its end. Beyond *most* such pairs, all that have
    the same kind are taken as one source. *noted* is called with each line.
    """

    def __init__(
        self,
        counters: Counters,
        *,
        noted: Noted | None = None,
        period: float = _PERIOD,
        most: int = _MOST,
    ) -> None:
        self._counters = counters
        self._noted = noted
        self._period = period
        self._most = most
        self._seen: dict[tuple[str, str], _Seen] = {}  # the first to end is the first
        self._timer: asyncio.TimerHandle | None = None

    def tell(
        self, peer: Peer, kind: Refusal, reason: str, *, by: Caller | None = None
    ) -> None:
        """Take into account that *peer* was refused, and why.

        *by* is who it is, where there was a certificate that says so.
        """
        self._counters.refusals[kind] += 1
        key = (peer.source, reason)

        if key not in self._seen and len(self._seen) >= self._most:
            key = (_OTHERS, kind.value)

        if (seen := self._seen.get(key)) is not None:
            seen.count += 1
            seen.peer = str(peer)
            return

        log.warning("refused %s: %s", peer, reason)
        self._begin(key)

        if self._noted is not None:
            self._noted(by or _somebody(str(peer)), reason, 1)

    def dismissed(self, by: Caller, what: str) -> None:
        """Tell that *by*, who had been let in, was sent away; *what* says why."""
        log.warning("%s", what)

        if self._noted is not None:
            self._noted(by, what, 1)

    def flush(self) -> None:
        """Tell what has not been told yet, and forget everything."""
        seen, self._seen = self._seen, {}

        for key, what in seen.items():
            self._sum_up(key, what)

        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self, key: tuple[str, str]) -> None:
        loop = asyncio.get_running_loop()
        self._seen[key] = _Seen(loop.time() + self._period)

        if self._timer is None:
            self._timer = loop.call_later(self._period, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None

        while self._seen:
            key, seen = next(iter(self._seen.items()))
            left = seen.until - loop.time()

            if left > 0:
                self._timer = loop.call_later(max(left, _TICK), self._look)
                return

            del self._seen[key]

            if self._sum_up(key, seen):
                # It may go on: then the next line is after another period.
                self._seen[key] = _Seen(loop.time() + self._period)

    def _sum_up(self, key: tuple[str, str], seen: _Seen) -> bool:
        if not seen.count:
            return False

        source, reason = key
        log.warning(
            "refused %s %s more time%s in %g s: %s",
            source,
            f"{seen.count:,}",
            "" if seen.count == 1 else "s",
            self._period,
            reason,
        )

        if self._noted is not None:
            self._noted(_somebody(seen.peer), f"{source}: {reason}", seen.count)

        return True


def _somebody(peer: str) -> Caller:
    return Caller("", "", peer)
