"""What the daemon remembers of its jobs, written by a thread, as soon as it can be."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, Self, TypeVar

from teleworkerd.protocol.responses import JobNews
from teleworkerd.reserve import Reserve
from teleworkerd.store.database import (
    BrokenError,
    Database,
    StoreError,
    UnfitRecordError,
)
from teleworkerd.store.eventlog import EventLog
from teleworkerd.store.events import Bounds
from teleworkerd.store.records import JobRecord


T = TypeVar("T")

log = logging.getLogger(__name__)

_RETRY: Final = 1.0  # seconds until what could not be written is tried again
_REFILL: Final = 10.0  # seconds between two looks at the reserve
_NAMED: Final = 10  # jobs in one line of the log


class JobStore:
    """The records at *path*; one coroutine after the other, or many at once.

    What is saved while the disk works is written together, in one transaction. What
    cannot be written waits, and is tried again until it is, or the store is closed.
    `lost` is set when it is broken, and cannot be begun anew by this process. `events`
    are the news that are on disk.
    """

    def __init__(self, path: Path) -> None:
        self.lost = asyncio.Event()
        # The one is opened once, and named in messages; the other again and again, by
        # the way that is open to us.
        self._reserve = Reserve(path.with_name(f"{path.name}.reserve"))
        self._database = Database(path.absolute(), self._reserve)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._pending: dict[str, JobRecord | None] = {}  # None: to be removed
        self._writing: dict[str, JobRecord | None] = {}
        self._news: list[JobNews] = []  # to be written
        self._next_number = 1
        self.events = EventLog(self._select)
        self._written: asyncio.Future[None] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._refilling: asyncio.Task[None] | None = None
        self._wakened = asyncio.Event()
        self._is_stuck = False
        self._is_closing = False

    @property
    def was_broken(self) -> bool:
        """Whether the database was, and begins anew: what was in it is lost."""
        return self._database.was_broken

    def is_behind(self, job_id: str) -> bool:
        """Whether the last that was saved of that job is not on disk yet."""
        return job_id in self._pending or job_id in self._writing

    async def open(self) -> Self:
        """Open or make the database; raises `StoreError`.

        One that is broken is renamed, and a new one made.
        """
        await self._in_thread(self._database.open)
        bounds = await self._in_thread(self._database.bounds)

        if self.was_broken:
            # Greater than any that was told before: there are not so many in a second.
            first = time.time_ns() // 1_000_000
            bounds = Bounds(first, first)

        self.events.begin(bounds)
        self._next_number = bounds.newest + 1
        self._refilling = asyncio.create_task(self._refill())
        return self

    def give_to(self, group: int) -> None:
        """Prepare for a process that may open no file of the database any more.

        What is open stays so; the reserve, which is not, is for *group*.
        """
        self._reserve.give_to(group)
        self._database.is_fixed = True

    async def load(self) -> list[JobRecord]:
        """Return all records that can be read, oldest first; raises `StoreError`."""
        return await self._in_thread(self._database.load)

    def note(self, news: JobNews) -> None:
        """Give *news* the next number, and write it with the next records."""
        self._news.append(replace(news, number=self._next_number))
        self._next_number += 1

    async def save(self, record: JobRecord) -> None:
        """Write *record* in place of an earlier one; it is on disk on return.

        Of several records of one job that wait, the last is written. Raises
        `StoreError`: it is not on disk yet, and is tried again.
        """
        await asyncio.shield(self.save_soon(record))

    def save_soon(self, record: JobRecord) -> asyncio.Future[None]:
        """Write *record* without waiting; the future says when it is on disk."""
        return self._write_soon(record.status.id, record)

    async def remove(self, job_id: str) -> None:
        """Remove the record of that job, as `save` writes one."""
        await asyncio.shield(self.remove_soon(job_id))

    def remove_soon(self, job_id: str) -> asyncio.Future[None]:
        """Remove a record without waiting, as `save_soon` writes one."""
        return self._write_soon(job_id, None)

    async def close(self) -> None:
        """Write what waits, if it can be written now, and close the database."""
        self._is_closing = True
        self._wakened.set()

        if self._refilling is not None:
            self._refilling.cancel()
            await asyncio.gather(self._refilling, return_exceptions=True)

        while self._writer is not None:
            await self._writer

        await self._in_thread(self._database.close)
        self._thread.shutdown()

    def _write_soon(
        self, job_id: str, record: JobRecord | None
    ) -> asyncio.Future[None]:
        self._pending[job_id] = record
        self._wakened.set()

        if self._written is None:
            self._written = asyncio.get_running_loop().create_future()
            # A failure is for who waits; nobody has to.
            self._written.add_done_callback(_look_at)

        if self._writer is None:
            self._writer = asyncio.create_task(self._write_pending())

        return self._written

    async def _write_pending(self) -> None:
        while self._pending:
            records, self._pending = self._pending, {}
            self._writing = records
            news, self._news = tuple(self._news), []
            written, self._written = self._written, None
            self._wakened.clear()

            try:
                try:
                    await self._in_thread(partial(self._database.write, records, news))
                finally:
                    self._writing = {}
            except UnfitRecordError as error:
                log.error("%s", error)
                self._wrote(news)
                _settle(written, error)
            except StoreError as error:
                if isinstance(error, BrokenError):
                    self.lost.set()

                # Newer ones of the same jobs stay.
                self._pending = records | self._pending
                self._news = [*news, *self._news]
                _settle(written, error)
                await self._wait_after(error)
            else:
                self._wrote(news)
                _settle(written, None)

        self._writer = None

    async def _wait_after(self, error: StoreError) -> None:
        """Wait until it is worth another try; once closing, give up instead."""
        count = len(self._pending)

        if self._is_closing:
            _settle(self._written, error)
            names = ", ".join(list(self._pending)[:_NAMED])
            more = f" and {count - _NAMED} more" if count > _NAMED else ""
            log.error("not recorded: the last of jobs %s%s: %s", names, more, error)
            self._pending = {}
            self._written = None
            return

        if not self._is_stuck:
            self._is_stuck = True
            log.error("%d job records cannot be written, and wait: %s", count, error)

        try:
            async with asyncio.timeout(_RETRY):
                await self._wakened.wait()
        except TimeoutError:
            return

    def _wrote(self, news: tuple[JobNews, ...]) -> None:
        self.events.add(news)

        if self._is_stuck:
            self._is_stuck = False
            log.warning("job records are written again, with all that waited")

    async def _select(
        self, *, after: int, owner: str | None, limit: int
    ) -> list[JobNews]:
        return await self._in_thread(
            partial(self._database.news, after=after, owner=owner, limit=limit)
        )

    async def _refill(self) -> None:
        while True:
            await asyncio.sleep(_REFILL)
            await self._in_thread(self._reserve.fill)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()

        try:
            return await loop.run_in_executor(self._thread, function)
        except StoreError:
            raise
        except Exception as error:
            # Whatever it is: a writer that dies of it leaves all others waiting.
            raise self._database.explain(error) from error


def _look_at(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()


def _settle(future: asyncio.Future[None] | None, error: StoreError | None) -> None:
    # Who waited without a shield may have cancelled it, for all others too.
    if future is None or future.done():
        return

    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
