"""What was asked on one connection, until it is answered to its end."""

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.messages import Response
from teleworkerd.protocol.responses import InterleaveResponse, OutputResponse
from teleworkerd.protocol.roles import PARTIAL


T = TypeVar("T")


class Inbox(Protocol):
    """Where what comes for one request goes, after its first response."""

    def put(self, arrived: Any) -> None:
        """Take what has come: a response, or an error, which is the last."""


class Exchanges:
    """Numbers of requests, and who gets what comes for each.

    There is room for one until `allow` is called. A number is taken from `begin` until
    the last response to it has come, or `end` is called.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._numbers: Iterator[int] = itertools.cycle(range(1 << 32))
        self._responses: dict[int, asyncio.Future[Response]] = {}
        self._inboxes: dict[int, Inbox] = {}
        self._slots = asyncio.Semaphore(1)

    def __contains__(self, number: int) -> bool:
        return number in self._responses or number in self._inboxes

    def allow(self, count: int) -> None:
        """Have room for so many more."""
        for _ in range(count):
            self._slots.release()

    async def begin(self) -> int:
        """Return a number, once there is room for it."""
        await self._slots.acquire()
        return next(number for number in self._numbers if number not in self)

    def end(self, number: int) -> None:
        """Have room for another: nothing more comes for *number*."""
        self._responses.pop(number, None)
        self._inboxes.pop(number, None)
        self._slots.release()

    def expect(self, number: int) -> asyncio.Future[Response]:
        """Return what becomes the next response to *number*, or its error."""
        future = self._responses[number] = self._loop.create_future()
        return future

    def collect(self, number: int, inbox: Inbox) -> None:
        """Have *inbox* get what comes for *number*, but for a response expected."""
        self._inboxes[number] = inbox

    def accept(self, response: Response) -> None:
        """Give *response* to whom it is for, who has asked for it."""
        number = response.id
        inbox = self._inboxes.get(number)

        if inbox is not None and number not in self._responses:
            inbox.put(response)

            if not isinstance(response, PARTIAL):
                self.end(number)
        elif isinstance(response, OutputResponse | InterleaveResponse):
            settle(self._responses.pop(number), response)
        else:
            settle(self._responses[number], response)
            self.end(number)

    def refuse(self, number: int, error: TeleworkerError) -> None:
        """Have *number* end with *error*."""
        future = self._responses.get(number)
        inbox = self._inboxes.get(number)
        self.end(number)

        if future is not None:
            settle(future, error)
        elif inbox is not None:
            inbox.put(error)

    def fail(self, make_error: Callable[[], TeleworkerError]) -> None:
        """Have all end, each with an error of its own."""
        for number in {*self._responses, *self._inboxes}:
            self.refuse(number, make_error())


def settle(future: asyncio.Future[T], result: T | TeleworkerError) -> None:
    """Have *future* end so; whoever waited for it may be gone."""
    if future.done():
        return

    if isinstance(result, TeleworkerError):
        future.set_exception(result)
        future.exception()
    else:
        future.set_result(result)
