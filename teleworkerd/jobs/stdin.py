"""Who sends to a job's stdin: one at a time, and each knows how far it has come."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from teleworkerd.execution import Caller, InputFacts
from teleworkerd.protocol.types import InputEndReason


class InputWriter(Protocol):
    """What passes on what is sent; it answers by `Stdin.moved`."""

    def take_input(self, turn: int, sender: str, *, by: Caller | None) -> None:
        """Let *sender* go on in this *turn*; throw away what was not taken before."""

    def write_input(self, turn: int, data: bytes, *, eof: bool) -> None:
        """Pass *data* on, and the end, unless the *turn* is over."""


class Seat:
    """The place of one sender: `offset` is how far it has come.

    `ended` says why it sends no more.
    """

    def __init__(self, turn: int, sender: str, writer: InputWriter) -> None:
        self.turn = turn
        self.sender = sender
        self.offset = 0
        self.ended: InputEndReason | None = None
        self._writer = writer
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
        self._writer.write_input(self.turn, data, eof=eof)

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
    """A job's stdin, as the server sees it; *writer* is behind it."""

    def __init__(self, writer: InputWriter) -> None:
        self._writer = writer
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
        seat = Seat(self._turn, sender, self._writer)
        self._seats.append(seat)
        self._writer.take_input(seat.turn, sender, by=by)

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
        """Take over what the writer's end says."""
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
            self._writer.take_input(self._turn, seat.sender, by=by)
