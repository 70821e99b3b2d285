"""What the audit log is to have of requests: the first at once, the rest counted."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from teleworkerd.execution import Caller
from teleworkerd.keeper.orders import Noted
from teleworkerd.protocol.errors import RequestError
from teleworkerd.server.repeats import Repeats


_PERIOD: Final = 60.0  # seconds
_LONGEST: Final = 4096  # characters
_REMEMBERED: Final = 10_000  # beyond that the oldest are summed up early


class Trail:
    """Has *note* write things down; the same again is one line after *period* seconds.

    Who looks every second, or tries, shall not fill the disk with it; but nothing is
    left out because others do more.
    """

    def __init__(
        self,
        note: Callable[[Noted], None] = lambda _: None,
        *,
        period: float = _PERIOD,
    ) -> None:
        self._note = note
        self._repeats: Repeats[tuple[str | None, ...], Noted] = Repeats(
            self._sum_up, period=period
        )

    def tell(self, note: Noted) -> None:
        """Have *note* written at once, unless the same was just now."""
        who = None if note.by is None else note.by.name
        what = (note.event, note.result, note.message, note.job, note.owner)
        self._tell((who, *what), note)

    def refused(self, caller: Caller, event: str, error: RequestError) -> None:
        """Tell that *caller* did not get what *event* names, because of *error*."""
        note = Noted(event, error.code, error.message[:_LONGEST], by=caller)
        # The message may have in it what the client has made up.
        self._tell((caller.name, event, error.code), note)

    def flush(self) -> None:
        """Tell what has not been told yet, and forget everything."""
        self._repeats.flush()

    def _tell(self, key: tuple[str | None, ...], note: Noted) -> None:
        if key not in self._repeats and len(self._repeats) >= _REMEMBERED:
            self._repeats.drop_oldest()

        if self._repeats.add(key, note):
            self._note(note)

    def _sum_up(self, _: tuple[str | None, ...], last: Noted, count: int) -> None:
        self._note(replace(last, count=count))
