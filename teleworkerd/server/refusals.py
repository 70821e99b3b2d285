"""What is told of clients that are refused: each counts, a flood is a few lines."""

import logging
from collections.abc import Callable
from typing import Final

from teleworkerd.counters import Counters, Refusal
from teleworkerd.execution import Caller
from teleworkerd.server.peer import Peer
from teleworkerd.server.repeats import Repeats


log = logging.getLogger(__name__)

Noted = Callable[[Caller, str, int], None]
"""Takes who was refused, as far as that is known, why, and how often."""

_PERIOD: Final = 60.0  # seconds
_MOST: Final = 1024  # pairs of a source and a reason
_OTHERS: Final = "other sources"


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
        self._repeats: Repeats[tuple[str, str], str] = Repeats(
            self._sum_up, period=period
        )

    def tell(
        self, peer: Peer, kind: Refusal, reason: str, *, by: Caller | None = None
    ) -> None:
        """Take into account that *peer* was refused, and why.

        *by* is who it is, where there was a certificate that says so.
        """
        self._counters.refusals[kind] += 1
        key = (peer.source, reason)

        if key not in self._repeats and len(self._repeats) >= self._most:
            key = (_OTHERS, kind.value)

        if not self._repeats.add(key, str(peer)):
            return

        log.warning("refused %s: %s", peer, reason)

        if self._noted is not None:
            self._noted(by or _somebody(str(peer)), reason, 1)

    def dismissed(self, by: Caller, what: str) -> None:
        """Tell that *by*, who had been let in, was sent away; *what* says why."""
        log.warning("%s", what)

        if self._noted is not None:
            self._noted(by, what, 1)

    def flush(self) -> None:
        """Tell what has not been told yet, and forget everything."""
        self._repeats.flush()

    def _sum_up(self, key: tuple[str, str], peer: str, count: int) -> None:
        source, reason = key
        log.warning(
            "refused %s %s more time%s in %g s: %s",
            source,
            f"{count:,}",
            "" if count == 1 else "s",
            self._period,
            reason,
        )

        if self._noted is not None:
            self._noted(_somebody(peer), f"{source}: {reason}", count)


def _somebody(peer: str) -> Caller:
    return Caller("", "", peer)
