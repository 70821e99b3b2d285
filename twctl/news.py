"""What has become of jobs, as it comes on one session."""

import asyncio
from dataclasses import dataclass
from typing import Final

from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.responses import EventsEnd, EventsResponse, JobNews


_ROOM: Final = 64  # messages


@dataclass(frozen=True, slots=True)
class News:
    """Some `jobs`, in order, and the number `upto` which all is told now.

    `missed` says that some before them are not kept any more.
    """

    jobs: tuple[JobNews, ...]
    upto: int
    missed: bool = False


class NewsInbox:
    """What comes for one events request, until its one reader takes it.

    There is room for some of it: `is_cut` says that more has come, and has to be asked
    for again.
    """

    def __init__(self) -> None:
        self.is_cut = False
        self._arrived: asyncio.Queue[EventsResponse | EventsEnd | TeleworkerError] = (
            asyncio.Queue()
        )

    def put(self, arrived: EventsResponse | EventsEnd | TeleworkerError) -> None:
        """Take what the session received; an error is the last."""
        if self.is_cut and not isinstance(arrived, TeleworkerError):
            return

        if self._arrived.qsize() >= _ROOM and isinstance(arrived, EventsResponse):
            self.is_cut = True
            arrived = EventsEnd(arrived.id, 0)

        self._arrived.put_nowait(arrived)

    async def next(self) -> News | None:
        """Wait for news; None when there are no more.

        Raises the error that the session put last.
        """
        match await self._arrived.get():
            case EventsResponse(_, jobs, upto, missed):
                return News(jobs, upto, missed)
            case EventsEnd():
                return None
            case TeleworkerError() as error:
                raise error
