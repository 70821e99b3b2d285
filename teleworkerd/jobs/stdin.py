"""Who sends to a job's stdin: one at a time, and each knows how far it has come."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from teleworkerd.execution import Caller, InputFacts
from teleworkerd.executors.base import Execution
from teleworkerd.protocol.types import InputEndReason


Act = Callable[[Callable[[Execution], None]], None]
"""Does something with a job's execution, as soon as there is one."""


class Seat:
    """The place of one sender: `offset` is how far it has come.

    `ended` says why it sends no more.
    """

    def __init__(self, turn: int, sender: str, act: Act) -> None:
        self.turn = turn
        self.sender = sender
        self.offset = 0
        self.ended: InputEndReason | None = None
        self._act = act
        self._is_taken = asyncio.Event()
        self._changed = asyncio.Event()

    async def taken(self) -> bool:
        """Wait until it is known where it begins; return false if it never will."""
        await self._is_taken.wait()
        return self.ended is None

    async def changed(self) -> bool:
        """Wait until there is more to tell; return false once it has `ended`."""
        await self._changed.wait()
        self._changed.clear()
        return self.ended is None

    def write(self, data: bytes, *, eof: bool = False) -> None:
        """Send *data*, and the end if it is that."""
        self._act(lambda execution: execution.write_input(self.turn, data, eof=eof))

    def see(self, offset: int, ended: InputEndReason | None) -> None:
        """Note how far it has come; after an end, nothing more."""
        if self.ended is not None:
            return

        is_new = (offset, ended) != (self.offset, self.ended)
        self.offset, self.ended = offset, ended

        if self._is_taken.is_set() and is_new:
            self._changed.set()

        self._is_taken.set()


class Stdin:
    """A job's stdin, as the server sees it; *act* reaches what is behind it."""

    def __init__(self, act: Act) -> None:
        self._act = act
        self._facts = InputFacts()
        self._turn = 0  # the last that was asked for
        self._seats: list[Seat] = []  # the last is who sends; others are about to go

    @property
    def offset(self) -> int:
        """How much the job has taken, as far as is known."""
        return self._facts.offset

    @property
    def ended(self) -> InputEndReason | None:
        """Why nobody can send any more."""
        return self._facts.ended

    def belongs_to(self, sender: str) -> bool:
        """Whether nobody has sent since *sender* did."""
        return self._facts.sender == sender

    @contextmanager
    def take(self, sender: str, *, by: Caller | None = None) -> Iterator[Seat]:
        """Give *sender* the place, until the context is left."""
        self._turn += 1
        seat = Seat(self._turn, sender, self._act)
        self._seats.append(seat)
        self._begin(sender, by)

        try:
            yield seat
        finally:
            self._seats.remove(seat)

            self._pass_over(seat, by)

    async def give_up(self, seat: Seat, *, by: Caller | None = None) -> None:
        """Throw away what is on its way from *seat*, whose `offset` is exact then."""
        self._pass_over(seat, by)

        while seat.ended is None:
            await seat.changed()

    def moved(self, facts: InputFacts) -> None:
        """Take over what the execution says."""
        self._facts = facts
        self._turn = max(self._turn, facts.turn)

        for seat in self._seats:
            if seat.turn < facts.turn:
                seat.see(facts.offset, InputEndReason.TAKEN_OVER)
            elif seat.turn == facts.turn:
                seat.see(facts.offset, facts.ended)

    def end(self) -> None:
        """Note that the job has ended."""
        if self._facts.ended is None:
            facts = self._facts
            self._facts = InputFacts(
                facts.turn, facts.sender, facts.offset, InputEndReason.ENDED
            )

        for seat in self._seats:
            seat.see(self._facts.offset, self._facts.ended)

    def _pass_over(self, seat: Seat, by: Caller | None) -> None:
        # What is on its way is not to come later, when it has been sent again.
        if seat.turn == self._turn and seat.ended is None:
            self._turn += 1
            self._begin(seat.sender, by)

    def _begin(self, sender: str, by: Caller | None) -> None:
        turn = self._turn
        self._act(lambda execution: execution.take_input(turn, sender, by=by))
