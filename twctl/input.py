"""The stdin of a job, as its one sender has it."""

import asyncio
import os
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.messages import MAX_INPUT, InputRequest
from teleworkerd.protocol.types import InputEndReason
from twctl.feed import Feed
from twctl.link import Link
from twctl.session import Session


_CHUNK: Final = 64 << 10  # bytes in a message: what a pipe holds
_WHY: Final = {
    InputEndReason.EOF: "its stdin is at its end",
    InputEndReason.CLOSED: "it has closed its stdin",
    InputEndReason.ENDED: "it has ended",
    InputEndReason.TAKEN_OVER: "another client sends to it now",
    InputEndReason.CANCELLED: "it was cancelled",
}


class InputEnded(TeleworkerError):
    """A job takes no more of what it is sent; `reason` says why."""

    def __init__(self, job: str, reason: InputEndReason) -> None:
        super().__init__(job, reason)
        self.job = job
        self.reason = reason

    def __str__(self) -> str:
        return f"job {self.job} takes no more input: {_WHY[self.reason]}"


class JobInput:
    """Sends to a job's stdin: each byte once and in order, over lost connections too.

    It begins on `async with`, in place of whoever sent before. Leaving the block in
    good order is `close`; after `leave`, or with an error, stdin stays open.
    `ended` says why no more is taken, once that is so; `taken` counts the bytes
    of ours that the job has in its stdin.

    What waits raises `ValueError` outside of the block and after `leave`, and what the
    connection fails with.

    ::

        job = await client.run(["wc", "-l"], stdin=True)

        async with await job.input() as stdin:
            await stdin.write(b"one\\ntwo\\n")
            await stdin.drain()
            print(stdin.taken)  # bytes that the job has

            if await stdin.close() is not twctl.InputEndReason.EOF:
                print("it did not want all of it")
    """

    def __init__(self, link: Link, job: str) -> None:
        self.ended: InputEndReason | None = None
        self.taken = 0
        self._link = link
        self._request = InputRequest(0, job, os.urandom(16).hex())
        self._origin: int | None = None  # the offset of our first byte
        self._data = bytearray()  # what is not known to be taken
        self._sent = 0  # of ours
        self._has_end = False
        self._end_is_sent = False
        self._has_left = False
        self._feed: Feed | None = None
        self._error: TeleworkerError | None = None
        self._task: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise RuntimeError("this input has been entered; get another by input()")

        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if exc_type is None and self.ended is None and not self._has_left:
                await self.close()
        finally:
            await self._give_up()

    async def write(self, data: bytes) -> None:
        """Send *data*; waits while much of what was written before is not taken.

        Raises `InputEnded` when the job takes no more, and `ValueError` after `close`.
        Cancelled, it has sent nothing of *data*.
        """
        self._check_open()

        while len(self._data) >= MAX_INPUT:
            self._check()
            await self._wait()

        self._check_open()
        self._data += data
        self._wake()

    async def drain(self) -> None:
        """Wait until the job has all that was written.

        Raises `InputEnded` when it takes no more.
        """
        while self._data:
            self._check()
            await self._wait()

    async def close(self) -> InputEndReason:
        """Send the end, and return why no more is taken when that is so."""
        self._has_end = True
        self._wake()
        return await self.wait()

    async def leave(self) -> None:
        """Leave stdin open for another sender; what was not taken is thrown away.

        To have it taken, `drain` first.
        """
        await self._give_up()

    async def wait(self) -> InputEndReason:
        """Return why no more is taken, when that is so."""
        while self.ended is None:
            self._check()
            await self._wait()

        return self.ended

    def _check_open(self) -> None:
        if self._has_end:
            raise self._misuse()

        self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

        if self.ended is not None:
            raise InputEnded(self._request.job, self.ended)

        if self._task is None or self._has_left:
            raise self._misuse()

    def _misuse(self) -> ValueError:
        return ValueError(
            f"the input of job {self._request.job} is not open: send within its 'with'"
            " block, before close and leave"
        )

    async def _wait(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    def _wake(self) -> None:
        if self._feed is not None:
            self._feed.wake()

    async def _give_up(self) -> None:
        self._has_left = True

        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while self.ended is None:
                session = await self._link.present(self._request)

                try:
                    await self._send_on(session)
                except TeleworkerError as error:
                    await self._link.go_on(session, error, self._request)
        except TeleworkerError as error:
            self._error = error
        finally:
            self._moved.set()

    async def _send_on(self, session: Session) -> None:
        """Send on *session* until no more is taken; raises what that fails with."""
        feed, cancel = await session.feed(self._request)

        try:
            if await feed.opened():
                self._begin(feed)
                self._link.answered()

            while feed.end is None:
                self._send_some(feed)
                await feed.changed()
                self._take(feed)

            self._take(feed)
            self.ended = feed.end.reason
        finally:
            self._feed = None
            cancel()

    def _begin(self, feed: Feed) -> None:
        if self._origin is None:
            self._origin = feed.offset
            self._request = replace(self._request, resume=True)

        self._take(feed)
        # What was on its way then was thrown away.
        self._sent = self.taken
        self._end_is_sent = False
        self._feed = feed

    def _take(self, feed: Feed) -> None:
        if self._origin is not None and feed.offset - self._origin > self.taken:
            count = feed.offset - self._origin - self.taken
            del self._data[:count]
            self.taken += count
            self._link.answered()

        self._moved.set()

    def _send_some(self, feed: Feed) -> None:
        while not self._end_is_sent and self._origin is not None:
            start = self._sent - self.taken
            size = min(_CHUNK, feed.room, len(self._data) - start)
            stop = start + size
            eof = self._has_end and stop == len(self._data)

            if not size and not eof:
                return

            data = bytes(self._data[start:stop])
            feed.send(self._origin + self._sent, data, eof=eof)
            self._sent += size
            self._end_is_sent = eof
