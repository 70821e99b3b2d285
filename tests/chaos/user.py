"""One who uses the library, and takes down all that it says."""

import asyncio
import random
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Final

import twctl
from teleworkerd.protocol.errors import ConnectionClosed, RequestError
from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import Chunk, Gap, Stream
from tests.chaos.board import Board, Known
from tests.chaos.history import (
    Action,
    Crashed,
    Done,
    Failure,
    History,
    Kill,
    List,
    Listed,
    Look,
    Output,
    Read,
    Refused,
    Remove,
    Result,
    Run,
    Seen,
    Started,
    Stop,
    Unknown,
    Wait,
)


PAUSE: Final = 0.15  # seconds between two actions, on average
AT_ONCE: Final = 12  # actions of one client
KEPT: Final = 25  # jobs of one owner, before the oldest are removed
FREE: Final = 0.4  # of the disk; with less, jobs are removed earlier


class User:
    """A client of *owner*; what it does is decided by *dice*."""

    def __init__(
        self,
        name: str,
        owner: str,
        client: twctl.Client,
        *,
        board: Board,
        history: History,
        dice: random.Random,
    ) -> None:
        self.name = name
        self.owner = owner
        self._client = client
        self._board = board
        self._history = history
        self._dice = dice
        self._doing: set[asyncio.Task[None]] = set()
        self._choices: dict[Callable[[], Coroutine[Any, Any, None]], int] = {
            self._run_one: 30,
            self._read_one: 30,
            self._read_both: 12,
            self._look_at_one: 15,
            self.list_all: 4,
            self._wait_for_one: 8,
            self._kill_one: 4,
            self._stop_one: 4,
            self._trespass: 3,
            self._remove_old: 15,
        }

    async def live(self, over: asyncio.Event) -> None:
        """Do this and that until it is *over*."""
        ways, weights = list(self._choices), list(self._choices.values())

        while not over.is_set():
            (way,) = self._dice.choices(ways, weights)

            if len(self._doing) < AT_ONCE:
                self._doing.add(asyncio.create_task(way()))

            await asyncio.sleep(self._dice.expovariate(1 / PAUSE))
            self._clear()

    async def finish(self) -> None:
        """Wait for all that was begun."""
        await asyncio.gather(*self._doing)

    async def leave(self) -> None:
        """End what was begun, which is taken down as cut off."""
        for task in self._doing:
            task.cancel()

        await asyncio.gather(*self._doing, return_exceptions=True)

    async def run(self, known: Known) -> None:
        """Start a job, or ask again whether it was."""

        async def ask() -> Result:
            job = await self._client.start(
                self._board.spec(known), request_id=known.request_id
            )
            known.job = job.id
            return Started(job.id)

        result = await self._note(Run(known.number, known.request_id), ask)
        known.is_refused = isinstance(result, Refused)

    async def look(self, known: Known) -> JobStatus | None:
        """Ask for the status."""
        job = self._client.job(known.ref)
        return await self._see(known, Look(known.number), job.status)

    async def wait(self, known: Known) -> JobStatus | None:
        """Wait for the end."""
        job = self._client.job(known.ref)
        return await self._see(known, Wait(known.number), job.wait)

    async def list_all(self) -> None:
        """Ask for all jobs."""

        async def ask() -> Result:
            return Listed(tuple(await self._client.list()))

        await self._note(List(), ask)

    async def kill(self, known: Known, number: int = signal.SIGKILL) -> None:
        """Send a signal."""

        async def ask() -> Result:
            await self._client.job(known.ref).kill(number)
            return Done()

        await self._note(Kill(known.number, number), ask)

    async def remove(self, known: Known) -> None:
        """Remove a job that has ended."""

        async def ask() -> Result:
            await self._client.job(known.ref).remove()
            return Done()

        await self._note(Remove(known.number), ask)

    async def read(
        self, known: Known, read: Read, *, leave_after: float | None = None
    ) -> None:
        """Read to the end, or leave after some seconds."""
        began = self._history.now
        parts: dict[Stream, list[bytes]] = {stream: [] for stream in Stream}
        order: list[tuple[Stream, int]] = []
        gaps: list[Gap] = []
        is_complete = False
        error: Failure | None = None

        try:
            async with asyncio.timeout(leave_after):
                async with aclosing(self._chunks(known, read, gaps)) as chunks:
                    async for chunk in chunks:
                        parts[chunk.stream].append(chunk.data)
                        order.append((chunk.stream, len(chunk.data)))

                is_complete = True
        except TimeoutError as failure:
            error = None if leave_after is not None else failed(failure)
        except Exception as failure:  # noqa: BLE001 - the checker tells
            error = failed(failure)
        except asyncio.CancelledError:
            error = Unknown("it was still going on when the test gave up")
            raise
        finally:
            keep = self._history.keep
            result = Output(
                keep(parts[Stream.STDOUT]),
                keep(parts[Stream.STDERR]),
                tuple(order),
                tuple(gaps),
                is_complete,
                error,
            )
            self._history.note(began, self.name, self.owner, read, result)

    def _chunks(
        self, known: Known, read: Read, gaps: list[Gap]
    ) -> AsyncGenerator[Chunk, None]:
        job = self._client.job(known.ref)

        if len(read.streams) > 1:
            return job.interleaved(follow=read.follow, on_gap=gaps.append)

        return job.output(
            read.streams[0],
            offset=read.offset,
            follow=read.follow,
            on_gap=gaps.append,
        )

    async def _see(
        self, known: Known, action: Action, ask: Callable[[], Awaitable[JobStatus]]
    ) -> JobStatus | None:
        async def see() -> Result:
            return Seen(await ask())

        result = await self._note(action, see)

        if not isinstance(result, Seen):
            return None

        status = result.status
        known.is_over = status.state.is_final
        known.sizes = {
            Stream.STDOUT: status.stdout.end,
            Stream.STDERR: status.stderr.end,
        }
        return status

    async def _note(
        self, action: Action, ask: Callable[[], Awaitable[Result]]
    ) -> Result:
        """Do something and take down what came of it."""
        began = self._history.now
        result: Result = Unknown("it was still going on when the test gave up")

        try:
            result = await ask()
        except Exception as error:  # noqa: BLE001 - the checker tells
            result = failed(error)
        finally:
            self._history.note(began, self.name, self.owner, action, result)

        return result

    async def _run_one(self) -> None:
        await self.run(self._board.new(self.owner))

    async def _read_one(self) -> None:
        if (known := self._pick()) is not None:
            stream = self._dice.choice(list(Stream))
            offset = self._dice.choice([0, 0, known.sizes.get(stream, 0)])
            offset = self._dice.randint(0, offset)
            follow = self._dice.random() < 0.8
            await self._read(known, Read(known.number, (stream,), offset, follow))

    async def _read_both(self) -> None:
        if (known := self._pick()) is not None:
            await self._read(known, Read(known.number, tuple(Stream)))

    async def _read(self, known: Known, read: Read) -> None:
        leave = self._dice.uniform(0, 3) if self._dice.random() < 0.3 else None
        await self.read(known, read, leave_after=leave)

    async def _look_at_one(self) -> None:
        if (known := self._pick()) is not None:
            await self.look(known)

    async def _wait_for_one(self) -> None:
        if (known := self._pick(is_over=False)) is not None:
            await self.wait(known)

    async def _kill_one(self) -> None:
        if (known := self._pick(is_over=False)) is not None:
            numbers = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]
            await self.kill(known, self._dice.choice(numbers))

    async def _stop_one(self) -> None:
        if (known := self._pick(is_over=False)) is not None:
            grace = self._dice.uniform(0, 2)

            async def ask() -> Result:
                await self._client.job(known.ref).stop(grace)
                return Done()

            await self._note(Stop(known.number, grace), ask)

    async def _trespass(self) -> None:
        """Ask for somebody else's job in any way."""
        others = [
            known
            for known in self._board.jobs.values()
            if known.owner != self.owner and known.job
        ]

        if not others:
            return

        known = self._dice.choice(others)

        match self._dice.randrange(5):
            case 0:
                await self.kill(known)
            case 1:
                streams = (self._dice.choice(list(Stream)),)
                await self.read(known, Read(known.number, streams))
            case 2:
                await self._note(Wait(known.number), self._asks(known, "wait"))
            case 3:
                await self._note(Remove(known.number), self._asks(known, "remove"))
            case _:
                await self._note(Look(known.number), self._asks(known, "status"))

    def _asks(self, known: Known, verb: str) -> Callable[[], Awaitable[Result]]:
        async def ask() -> Result:
            await getattr(self._client.job(known.ref), verb)()
            return Done()

        return ask

    async def _remove_old(self) -> None:
        """Remove the oldest job that is over, when there are many or little room."""
        there = self._board.there(self.owner)
        is_crowded = len(there) > KEPT or self._board.place.free < FREE
        over = [known for known in there if known.is_over and not known.pins]

        if is_crowded and over:
            known = over[0]
            known.is_removed = True  # nobody begins to ask for it now
            await self.look(known)
            await self.remove(known)
            await self.look(known)

    def _pick(self, *, is_over: bool | None = None) -> Known | None:
        return self._board.pick(self.owner, self._dice, is_over=is_over)

    def _clear(self) -> None:
        """Forget what is done; raises what no action should."""
        for task in [task for task in self._doing if task.done()]:
            self._doing.remove(task)
            task.result()


def failed(error: Exception) -> Failure:
    """Return what *error* says of what was asked."""
    if isinstance(error, RequestError):
        return Refused(error.code, error.message)

    sentence = f"{type(error).__name__}: {error}"
    is_lost = isinstance(error, ConnectionClosed)
    return Unknown(sentence) if is_lost else Crashed(sentence)
