"""What the audit log is to have of requests: each once, however often it comes."""

import time
from collections.abc import Callable
from typing import Final

from teleworkerd.execution import Caller
from teleworkerd.keeper.orders import Noted
from teleworkerd.protocol.errors import RequestError


_AGAIN: Final = 60.0  # seconds
_LONGEST: Final = 4096  # characters
_REMEMBERED: Final = 10_000  # beyond that the oldest are told again


class Trail:
    """Has *note* write things down; the same again not for a minute, by *now*.

    Who looks every second, or tries, shall not fill the disk with it; but nothing is
    left out because others do more.
    """

    def __init__(
        self,
        note: Callable[[Noted], None] = lambda _: None,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._note = note
        self._now = now
        self._told: dict[tuple[object, ...], float] = {}  # when; oldest first

    def tell(self, note: Noted) -> None:
        """Have *note* written, unless it was just now."""
        key = (note.event, note.result, note.message, note.job, note.owner, _who(note))
        now = self._now()

        while self._told and self._oldest() <= now - _AGAIN:
            del self._told[next(iter(self._told))]

        if key in self._told:
            return

        if len(self._told) >= _REMEMBERED:
            del self._told[next(iter(self._told))]

        self._told[key] = now
        self._note(note)

    def refused(self, caller: Caller, event: str, error: RequestError) -> None:
        """Tell that *caller* did not get what *event* names, because of *error*."""
        self.tell(Noted(event, error.code, error.message[:_LONGEST], by=caller))

    def _oldest(self) -> float:
        return next(iter(self._told.values()))


def _who(note: Noted) -> str | None:
    return None if note.by is None else note.by.name
