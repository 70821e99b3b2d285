"""What is typed or piped into us, and the size of our terminal, go to a job."""

import asyncio
import errno
import os
import tty
from collections.abc import AsyncIterator, Callable
from contextlib import (
    AbstractContextManager,
    asynccontextmanager,
    nullcontext,
    suppress,
)
from typing import Final

from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.spec import TerminalSize
from teleworkerd.protocol.types import InputEndReason
from twctl.commands.answers import Answers
from twctl.commands.keyboard import (
    INTERRUPT,
    WITHIN,
    DetachKeys,
    SizeWatch,
    local_size,
    terminal_set,
)
from twctl.input import InputEnded, JobInput
from twctl.job import RemoteJob
from twctl.render import print_notice
from twctl.source import Source


_LAST_KEYS: Final = 1.0  # seconds that a job has to take what was typed at last


class Desk:
    """Where somebody sits, or a script runs: `notice` tells them something.

    With `has_keys` the terminal that stdin is passes each key on, but not its
    `answers` to what it is shown again.
    """

    def __init__(self) -> None:
        self.has_keys = False
        self.answers = Answers()

    def take_keys(self) -> None:
        """Have keys, if stdin is a terminal."""
        self.has_keys = os.isatty(0)

    @property
    def way_out(self) -> str:
        """What to add where the job has no more use for the keys."""
        return "; Ctrl-C detaches" if self.has_keys else ""

    def notice(self, text: str) -> None:
        """Print a line on stderr."""
        print_notice(text, apart=self.has_keys)

    def given_over(self) -> AbstractContextManager[None]:
        """Give the terminal over to the job, within the block."""
        return terminal_set(0, tty.setraw) if self.has_keys else nullcontext()


@asynccontextmanager
async def sending(
    job: RemoteJob,
    desk: Desk,
    *,
    keeps_open: bool,
    detach: Callable[[], None],
    hang_up: Callable[[], None],
) -> AsyncIterator[None]:
    """Send what is typed, or piped into us, to *job* within the block.

    At its end the job's stdin ends too, unless *keeps_open*. *detach* is called when
    whoever types wants to go, *hang_up* when there is no terminal any more.
    """
    sent = _send(job, desk, keeps_open=keeps_open, detach=detach, hang_up=hang_up)
    task = asyncio.create_task(sent)

    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def sizing(job: RemoteJob, *, at_once: bool) -> AsyncIterator[None]:
    """Have the terminal of *job* be as large as ours, within the block."""
    changed = asyncio.Event()

    if at_once:
        changed.set()

    task = asyncio.create_task(_resize(job, changed))

    try:
        with SizeWatch(changed.set):
            yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _send(
    job: RemoteJob,
    desk: Desk,
    *,
    keeps_open: bool,
    detach: Callable[[], None],
    hang_up: Callable[[], None],
) -> None:
    source = Source(0)

    try:
        is_leaving = await _send_from(source, job, desk, keeps_open=keeps_open)

        if not is_leaving and desk.has_keys:
            is_leaving = await _throw_away(source)
    except OSError as error:
        if desk.has_keys and error.errno == errno.EIO:
            hang_up()
        else:
            desk.notice(f"stdin cannot be read: {error.strerror}; the job gets no more")
    else:
        if is_leaving:
            detach()
        elif desk.has_keys:  # which have no end but that of the terminal
            hang_up()


async def _send_from(
    source: Source, job: RemoteJob, desk: Desk, *, keeps_open: bool
) -> bool:
    """Send what *source* has until no more can be; or return true to detach."""
    try:
        async with await job.input() as stdin:
            is_leaving = await _pass_on(source, stdin, desk)

            if is_leaving:
                with suppress(TimeoutError, InputEnded):
                    async with asyncio.timeout(_LAST_KEYS):
                        await stdin.drain()

                await stdin.leave()
                return True

            if keeps_open and stdin.ended is None:
                await stdin.drain()
                await stdin.leave()
                return False

            reason = await stdin.close()
    except InputEnded as error:
        reason = error.reason
    except TeleworkerError as error:
        desk.notice(f"input is not sent any more: {error}{desk.way_out}")
        return False

    # A job that reads no more of a pipe is none of our business.
    if reason is InputEndReason.TAKEN_OVER or (
        desk.has_keys and reason is not InputEndReason.ENDED
    ):
        why = InputEnded(job.id, reason)
        desk.notice(f"{why}; only its output comes here{desk.way_out}")

    return False


async def _throw_away(source: Source) -> bool:
    """Read what is typed, which is nobody's, until it asks to detach.

    The shell that called us would have it otherwise, and run it.
    """
    detaching = DetachKeys()

    while data := await source.read():
        _, is_leaving = detaching.split(data, now=asyncio.get_running_loop().time())

        if is_leaving or INTERRUPT in data:
            return True

    return False


async def _pass_on(source: Source, stdin: JobInput, desk: Desk) -> bool:
    """Send what comes until its end, or that of *stdin*; or return true to detach."""
    loop = asyncio.get_running_loop()
    detaching = DetachKeys()
    ended = asyncio.create_task(stdin.wait())
    reading: asyncio.Task[bytes] | None = None

    try:
        while True:
            reading = reading or asyncio.create_task(source.read())
            is_holding = detaching.is_holding or desk.answers.is_holding
            patience = WITHIN if is_holding else None
            await asyncio.wait(
                {reading, ended},
                timeout=patience,
                return_when=asyncio.FIRST_COMPLETED,
            )

            if ended.done():
                return False

            if not reading.done():
                await stdin.write(detaching.release() + desk.answers.release())
                continue

            data, is_leaving = reading.result(), False
            reading = None

            if not data:
                return False

            if desk.has_keys:
                data = desk.answers.strip(data)
                data, is_leaving = detaching.split(data, now=loop.time())

            await stdin.write(data)

            if is_leaving:
                return True
    finally:
        for task in (ended, reading):
            if task is not None:
                task.cancel()


async def _resize(job: RemoteJob, changed: asyncio.Event) -> None:
    told: TerminalSize | None = None

    while True:
        await changed.wait()
        changed.clear()
        size = local_size()

        if size is not None and size != told:
            told = size

            try:
                await job.resize(size.columns, size.rows)
            except TeleworkerError:
                continue  # what is asked next will say what is wrong
