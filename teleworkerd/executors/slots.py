"""Room for so many at once, shared fairly between those who wait for it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairSlots:
    """*count* slots; where owners wait for them, each has the next one in turn.

    However many one of them wants, another waits for one of theirs, not for all.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # in turn

    @asynccontextmanager
    async def slot(self, owner: str) -> AsyncIterator[None]:
        """Have a slot within the block."""
        await self._acquire(owner)

        try:
            yield
        finally:
            self._release()

    async def _acquire(self, owner: str) -> None:
        if self._free:
            self._free -= 1
            return

        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)

        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release()

            raise

    def _release(self) -> None:
        while self._waiting:
            owner = next(iter(self._waiting))
            turns = self._waiting.pop(owner)
            turn = turns.popleft()

            if turns:
                self._waiting[owner] = turns  # behind all others

            if not turn.done():  # nor was it cancelled
                turn.set_result(None)
                return

        self._free += 1
