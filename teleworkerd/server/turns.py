"""Whose request begins next: one of each name in a turn of the loop."""

import asyncio
from collections import deque


class Turns:
    """Keeps what one name asks at once from holding up all others.

    A client may ask hundreds of things in one packet. Each is short, but all of them
    one after another are not, and others would be heard when they are done.
    """

    def __init__(self) -> None:
        self._had: set[str] = set()  # who had this turn
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def wait(self, name: str) -> None:
        """Return when a request of *name* may begin."""
        if name not in self._had:
            self._have(name)
            return

        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, deque()).append(turn)
        await turn

    def _have(self, name: str) -> None:
        if not self._had:
            asyncio.get_running_loop().call_soon(self._next)

        self._had.add(name)

    def _next(self) -> None:
        self._had.clear()

        for name, waiting in list(self._waiting.items()):
            while waiting:
                turn = waiting.popleft()

                if not turn.done():  # nor was it cancelled
                    turn.set_result(None)
                    self._have(name)
                    break

            if not waiting:
                del self._waiting[name]
