"""The library: a job on a server, as `RemoteJob`."""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Final

from teleworkerd.protocol.messages import (
    InterleaveRequest,
    KillRequest,
    OutputRequest,
    RemoveRequest,
    ResizeRequest,
    StatusRequest,
    StopRequest,
    WaitRequest,
)
from teleworkerd.protocol.responses import (
    DoneResponse,
    StatusResponse,
)
from teleworkerd.protocol.spec import TerminalSize
from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import Chunk, Gap, Stream
from twctl.input import JobInput
from twctl.link import Link
from twctl.moments import Moment, nanoseconds
from twctl.reading import Reading


SIGKILL: Final = 9
DEFAULT_GRACE: Final = 10.0  # seconds

_ID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class RemoteJob:
    """A job on the server; `id` is what it was asked for by.

    Of one that was just started, `not_applied` says which limits are not in force, and
    why.

    What a name or prefix stands for is found out once, by the first `output` or
    `wait`: later, after a lost connection too, it may stand for another job.

    Every method raises `JobNotFound` when there is no such job of the caller's.
    """

    def __init__(
        self, link: Link, ref: str, *, not_applied: Mapping[str, str] | None = None
    ) -> None:
        self._link = link
        self._ref = ref.lower() if _ID.fullmatch(ref) else None
        self.id = ref
        self.not_applied: Mapping[str, str] = not_applied or {}

    def __repr__(self) -> str:
        return f"RemoteJob({self.id!r})"

    async def resolve(self) -> str:
        """Return the job's own ID, which the server is asked for once.

        ::

            job = client.job("build")
            print(await job.resolve())
        """
        if self._ref is None:
            self._ref = (await self.status()).id

        return self._ref

    def now(self) -> int:
        """Return what the server's clock shows, in ns since the epoch."""
        return self._link.now()

    async def status(self) -> JobStatus:
        """Return the job as it is now.

        ::

            status = await job.status()
            print(status.state, status.usage.memory_peak_bytes)
        """
        request = StatusRequest(0, self._ref or self.id)
        return (await self._link.ask(request, StatusResponse)).status

    async def wait(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - says which job it was
    ) -> JobStatus:
        """Return the job's last status, when it has ended.

        Raises `TimeoutError` when that takes longer than *timeout* seconds; the job
        goes on. With 0 it looks once.

        ::

            try:
                status = await job.wait(timeout=60)
            except TimeoutError:
                print("it goes on")
            else:
                print(status.exit_code, status.reason)
        """
        if timeout is not None and timeout <= 0:
            status = await self.status()

            if status.state.is_final:
                return status

            raise self._not_ended(timeout)

        try:
            async with asyncio.timeout(timeout):
                request = WaitRequest(0, await self.resolve())
                return (await self._link.ask(request, StatusResponse)).status
        except TimeoutError:
            raise self._not_ended(timeout) from None

    async def kill(self, signal: int = SIGKILL, *, tree: bool = False) -> bool:
        """Send a signal; return False when the job had ended already.

        SIGKILL goes to the whole tree, another to the main process unless
        *tree*. Any but SIGKILL is sent at most once: a connection lost meanwhile
        is a `ConnectionClosed`.

        ::

            await job.kill(signal.SIGHUP)  # to the main process
            await job.kill()  # to all of it, at once
        """
        request = KillRequest(0, self._ref or self.id, int(signal), tree)
        again = signal == SIGKILL
        return not (
            await self._link.ask(request, DoneResponse, again=again)
        ).already_ended

    async def stop(self, grace: float | None = DEFAULT_GRACE) -> bool:
        """Send SIGTERM to the tree and, *grace* seconds later, SIGKILL.

        None waits for ever. Returns False when the job had ended already.

        ::

            if not await job.stop(grace=30):
                print("it had ended already")
        """
        request = StopRequest(0, self._ref or self.id, grace)
        return not (await self._link.ask(request, DoneResponse)).already_ended

    async def input(self) -> JobInput:
        """Return its stdin, to send to it in an `async with` block.

        The job must have been started with *stdin* or a terminal. Whoever sent to it
        before is told that another one does now.

        ::

            job = await client.run(["sha256sum"], stdin=True)

            async with await job.input() as stdin:
                await stdin.write(b"hello")
        """
        return JobInput(self._link, await self.resolve())

    async def resize(self, columns: int, rows: int) -> bool:
        """Say how large its terminal is now; return False when it had ended.

        ::

            job = await client.run(["cat"], tty=twctl.TerminalSize(80, 24))
            await job.resize(132, 43)
            await job.kill()
        """
        request = ResizeRequest(0, self._ref or self.id, TerminalSize(columns, rows))
        return not (await self._link.ask(request, DoneResponse)).already_ended

    async def remove(self) -> None:
        """Remove the record and the output of the job, which must have ended.

        Raises `JobNotEnded`. Asked at most once: a connection lost meanwhile is a
        `ConnectionClosed`.

        ::

            await job.wait()
            await job.remove()
        """
        request = RemoveRequest(0, self._ref or self.id)
        await self._link.ask(request, DoneResponse, again=False)

    async def output(  # noqa: PLR0913 - one parameter for each thing to choose
        self,
        stream: Stream | str = Stream.STDOUT,
        *,
        offset: int = 0,
        follow: bool = True,
        since: Moment | None = None,
        until: Moment | None = None,
        times: bool = False,
        on_gap: Callable[[Gap], None] | None = None,
    ) -> AsyncGenerator[Chunk, None]:
        """Yield a stream's bytes from *offset* on, each once, in order.

        With *follow* it goes on until the job has ended and all is read, over
        lost connections too; without, it ends at what there is now. Bytes that
        came before *since*, or at *until* and later, are left out; with *times*
        the chunks say when theirs came.

        Bytes that were dropped are told *on_gap* before what comes after them;
        without it they are an `OutputDropped`. Whoever reads all from the first
        byte on gets a `DigestMismatch` at the end if it is not what the job wrote.
        Raises `OffsetOutOfRange` when the stream does not hold the offset.

        ::

            async with aclosing(job.output("stderr", offset=0)) as chunks:
                async for chunk in chunks:
                    sys.stdout.buffer.write(chunk.data)
                    offset = chunk.stop  # where another reader goes on
        """
        request = OutputRequest(
            0,
            await self.resolve(),
            Stream(stream),
            offset,
            follow,
            since=self._nanoseconds(since),
            until=self._nanoseconds(until),
            times=times,
        )

        async with aclosing(self.read(request).chunks(on_gap)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def interleaved(  # noqa: PLR0913 - one parameter for each thing to choose
        self,
        *,
        stdout: int = 0,
        stderr: int = 0,
        follow: bool = True,
        since: Moment | None = None,
        until: Moment | None = None,
        times: bool = False,
        on_gap: Callable[[Gap], None] | None = None,
    ) -> AsyncGenerator[Chunk, None]:
        """Yield both streams' bytes in the order in which the job wrote them.

        That order is the same for every reader. *stdout* and *stderr* are the
        offsets to begin at; all else is as with `output`.

        ::

            async for chunk in job.interleaved(since=timedelta(minutes=10)):
                print(chunk.stream, chunk.data)
        """
        request = InterleaveRequest(
            0,
            await self.resolve(),
            stdout,
            stderr,
            follow,
            since=self._nanoseconds(since),
            until=self._nanoseconds(until),
            times=times,
        )

        async with aclosing(self.read(request).chunks(on_gap)) as chunks:
            async for chunk in chunks:
                yield chunk

    def read(self, request: OutputRequest | InterleaveRequest) -> Reading:
        """Return what *request* asks for, gaps and the job's end included."""
        return Reading(self._link, request)

    def _not_ended(self, timeout: float | None) -> TimeoutError:
        return TimeoutError(f"job {self.id} has not ended within {timeout} seconds")

    def _nanoseconds(self, moment: Moment | None) -> int | None:
        return None if moment is None else nanoseconds(moment, now=self._link.now())
