"""What is typed or piped into us, and the size of our terminal, go to a job."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.spec import TerminalSize
from teleworkerd.protocol.types import InputEndReason
from twctl.commands.keyboard import (
    WITHIN,
    DetachKeys,
    RawTerminal,
    SizeWatch,
    local_size,
)
from twctl.input import InputEnded, JobInput
from twctl.job import RemoteJob
from twctl.render import print_notice
from twctl.source import Source


Notice = Callable[[str], None]

_LAST_KEYS: Final = 1.0  # seconds that a job has to take what was typed at last


class Desk:
    """Where somebody sits, or a script runs: `notice` tells them something.

    With *keys* the terminal passes each key on, if stdin is one.
    """

    def __init__(self, *, keys: bool) -> None:
        self._raw = RawTerminal(0) if keys and os.isatty(0) else None

    @property
    def has_keys(self) -> bool:
        """Whether each key is passed on."""
        return self._raw is not None

    def notice(self, text: str) -> None:
        """Print a line on stderr."""
        if self._raw is None:
            print_notice(text)
        else:
            self._raw.notice(text)

    @contextmanager
    def given_over(self) -> Iterator[None]:
        """Give the terminal over to the job."""
        if self._raw is None:
            yield
        else:
            with self._raw:
                yield


@asynccontextmanager
async def sending(
    job: RemoteJob, desk: Desk, *, detach: Callable[[], None]
) -> AsyncIterator[None]:
    """Send what is typed, or piped into us, to *job* within the block.

    *detach* is called when whoever types wants to go.
    """
    task = asyncio.create_task(_send(job, desk, detach))

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


async def _send(job: RemoteJob, desk: Desk, detach: Callable[[], None]) -> None:
    try:
        async with await job.input() as stdin:
            is_leaving = await _pass_on(stdin, keys=desk.has_keys)

            if is_leaving:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LAST_KEYS):
                        await stdin.drain()

                await stdin.leave()
                detach()
                return

            reason = await stdin.close()

        if reason is InputEndReason.TAKEN_OVER:
            desk.notice(f"{InputEnded(job.id, reason)}; only its output comes here")
    except InputEnded:
        pass  # a job that reads no more is none of our business
    except TeleworkerError as error:
        desk.notice(f"input is not sent any more: {error}")
    except OSError as error:
        desk.notice(f"stdin cannot be read: {error.strerror}; the job gets no more")


async def _pass_on(stdin: JobInput, *, keys: bool) -> bool:
    """Send what comes until its end, or that of *stdin*; or return true to detach."""
    loop = asyncio.get_running_loop()
    source = Source(0)
    detaching = DetachKeys()
    ended = asyncio.create_task(stdin.wait())
    reading: asyncio.Task[bytes] | None = None

    try:
        while True:
            reading = reading or asyncio.create_task(source.read())
            patience = WITHIN if detaching.is_holding else None
            await asyncio.wait(
                {reading, ended},
                timeout=patience,
                return_when=asyncio.FIRST_COMPLETED,
            )

            if ended.done():
                return False

            if not reading.done():
                await stdin.write(detaching.release())
                continue

            data, is_leaving = reading.result(), False
            reading = None

            if not data:
                return False

            if keys:
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
