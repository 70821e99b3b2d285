"""What has become of jobs, for all who want to hear of it: the disk, and a window."""

import asyncio
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import Final, Protocol

from teleworkerd.protocol.messages import MAX_PAGE
from teleworkerd.protocol.responses import JobNews
from teleworkerd.store.events import KEPT, Bounds


_WINDOW: Final = 4096  # news in memory


class Select(Protocol):
    """Reads news from the disk."""

    async def __call__(
        self, *, after: int, owner: str | None, limit: int
    ) -> list[JobNews]:
        """Return the oldest after a number."""


@dataclass(frozen=True, slots=True)
class NewsPage:
    """Some news, in order; there are no other ones up to the number `upto`."""

    news: tuple[JobNews, ...]
    upto: int


class EventLog:
    """The news that are on disk, the newest of them in memory too.

    *select* reads those from before. Call `begin` once with the numbers that there are.
    """

    def __init__(self, select: Select) -> None:
        self.oldest = self.newest = 0
        self._select = select
        self._window: deque[JobNews] = deque(maxlen=_WINDOW)
        self._window_after = 0  # the window has all from after this number
        self._grown = asyncio.Event()

    def begin(self, bounds: Bounds) -> None:
        """Take note of what an earlier server has left."""
        self.oldest, self.newest = bounds.oldest, bounds.newest
        self._window_after = self.newest

    def add(self, news: tuple[JobNews, ...]) -> None:
        """Take in *news* that are on disk now, and tell whoever waits."""
        if not news:
            return

        self._window.extend(news)
        self.newest = news[-1].number
        self.oldest = max(self.oldest or news[0].number, self.newest - KEPT)
        self._window_after = max(self._window_after, self._window[0].number - 1)
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()

    def has_forgotten(self, number: int) -> bool:
        """Whether some of what came after *number* may not be kept any more."""
        return number + 1 < self.oldest

    def growth(self) -> asyncio.Event:
        """Return what is set when there is more than now."""
        return self._grown

    async def after(self, number: int, owner: str | None) -> NewsPage:
        """Return a page of the news of *owner*, or of all, after *number*.

        Raises `StoreError`.
        """
        newest = self.newest

        if number >= self._window_after:
            start = bisect_right(self._window, number, key=attrgetter("number"))
            fitting = (
                news
                for news in islice(self._window, start, None)
                if owner is None or news.owner == owner
            )
            found = list(islice(fitting, MAX_PAGE))
        else:
            found = await self._select(after=number, owner=owner, limit=MAX_PAGE)

        if len(found) == MAX_PAGE:
            newest = found[-1].number

        return NewsPage(
            tuple(news for news in found if news.number <= newest), max(newest, number)
        )
