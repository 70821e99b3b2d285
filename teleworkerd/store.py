"""Job records in SQLite, on a thread of their own."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Self, TypeVar

from teleworkerd.protocol.codec import dump_record, load_record
from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.types import JobStatus


T = TypeVar("T")

log = logging.getLogger(__name__)

SCHEMA_VERSION: Final = 1

_SCHEMA: Final = """
    CREATE TABLE job (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        request_id TEXT NOT NULL,
        spec_digest BLOB NOT NULL,
        created_at INTEGER NOT NULL,
        status BLOB NOT NULL,
        UNIQUE (owner, request_id)
    ) STRICT, WITHOUT ROWID;
"""


class StoreError(TeleworkerError):
    """The database cannot be used; the message names the file and the cause."""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as it is stored: everything but the bytes of its output."""

    request_id: str
    spec_digest: bytes
    status: JobStatus


class JobStore:
    """The records at *path*; one coroutine after the other, or many at once.

    What is saved while the disk works is written together, in one transaction.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._database: sqlite3.Connection | None = None
        self._pending: dict[str, JobRecord | None] = {}  # None: to be removed
        self._written: asyncio.Future[None] | None = None
        self._writer: asyncio.Task[None] | None = None

    async def open(self) -> Self:
        """Open or make the database; raises `StoreError`."""
        await self._in_thread(self._open)
        return self

    async def load(self) -> list[JobRecord]:
        """Return all records, oldest first; raises `StoreError`."""
        return await self._in_thread(self._load)

    async def save(self, record: JobRecord) -> None:
        """Write *record* in place of an earlier one; it is on disk on return.

        Of several records of one job that wait, the last is written. Raises
        `StoreError`.
        """
        await asyncio.shield(self.save_soon(record))

    def save_soon(self, record: JobRecord) -> asyncio.Future[None]:
        """Write *record* without waiting; the future says when it is on disk."""
        return self._write_soon(record.status.id, record)

    async def remove(self, job_id: str) -> None:
        """Remove the record of that job; raises `StoreError`."""
        await asyncio.shield(self.remove_soon(job_id))

    def remove_soon(self, job_id: str) -> asyncio.Future[None]:
        """Remove a record without waiting, as `save_soon` writes one."""
        return self._write_soon(job_id, None)

    async def close(self) -> None:
        """Write what waits and close the database."""
        while self._writer is not None:
            await self._writer

        await self._in_thread(self._close)
        self._thread.shutdown()

    def _write_soon(
        self, job_id: str, record: JobRecord | None
    ) -> asyncio.Future[None]:
        self._pending[job_id] = record

        if self._written is None:
            self._written = asyncio.get_running_loop().create_future()
            # A failure is for who waits; nobody has to.
            self._written.add_done_callback(_look_at)

        if self._writer is None:
            self._writer = asyncio.create_task(self._write_pending())

        return self._written

    async def _write_pending(self) -> None:
        while self._pending and self._written is not None:
            records, self._pending = self._pending, {}
            written, self._written = self._written, None

            try:
                await self._in_thread(partial(self._write, records))
            except StoreError as error:
                log.error(
                    "%d job records could not be written: %s", len(records), error
                )
                _settle(written, error)
            else:
                _settle(written, None)

        self._writer = None

    async def _in_thread(self, function: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()

        try:
            return await loop.run_in_executor(self._thread, function)
        except StoreError:
            raise
        except Exception as error:
            # Whatever it is: a writer that dies of it leaves all others waiting.
            raise StoreError(f"database {self._path}: {error}") from error

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._database is None:
            raise StoreError(f"database {self._path} is not open")

        return self._database

    def _open(self) -> None:
        # Threads: made here, in the one that uses it.
        self._database = sqlite3.connect(self._path, isolation_level=None)

        try:
            self._prepare(self._database)
        except Exception:
            self._close()
            raise

    def _prepare(self, database: sqlite3.Connection) -> None:
        # Before WAL, or a full disk can kill the process through a mapped -shm file.
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        (version,) = database.execute("PRAGMA user_version").fetchone()

        if version > SCHEMA_VERSION:
            raise StoreError(
                f"database {self._path} has schema {version}, this program knows"
                f" {SCHEMA_VERSION}; it was written by a newer version"
            )

        if version == 0:
            database.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )

    def _load(self) -> list[JobRecord]:
        rows = self._connection.execute(
            "SELECT request_id, spec_digest, status FROM job ORDER BY created_at, id"
        )
        return [
            JobRecord(request_id, digest, load_record(JobStatus, status))
            for request_id, digest, status in rows
        ]

    def _write(self, records: Mapping[str, JobRecord | None]) -> None:
        removed = [job_id for job_id, record in records.items() if record is None]
        kept = [record for record in records.values() if record is not None]

        with self._connection as database:
            database.execute("BEGIN IMMEDIATE")
            database.executemany(
                "DELETE FROM job WHERE id = ?", [(job_id,) for job_id in removed]
            )
            # Of a job that was removed the record may have been left behind.
            database.executemany(
                "DELETE FROM job WHERE owner = ? AND request_id = ? AND id != ?",
                [
                    (record.status.owner, record.request_id, record.status.id)
                    for record in kept
                ],
            )
            database.executemany(
                "INSERT INTO job VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET status = excluded.status",
                [
                    (
                        record.status.id,
                        record.status.owner,
                        record.request_id,
                        record.spec_digest,
                        record.status.created_at,
                        dump_record(record.status),
                    )
                    for record in kept
                ],
            )

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


def _look_at(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()


def _settle(future: asyncio.Future[None], error: StoreError | None) -> None:
    # Who waited without a shield may have cancelled it, for all others too.
    if future.done():
        return

    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
