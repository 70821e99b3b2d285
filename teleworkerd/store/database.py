"""The file of the records: checked, brought up to date, begun anew if it is broken.

What it loses can be rebuilt from the jobs' directories, so nothing that is wrong
with it keeps the daemon from starting. A disk that fails or is full is another matter:
there the file may be in order.
"""

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from teleworkerd.protocol.errors import ProtocolError, TeleworkerError
from teleworkerd.protocol.responses import JobNews
from teleworkerd.reserve import Reserve
from teleworkerd.store import events
from teleworkerd.store.records import (
    SELECT,
    JobRecord,
    Row,
    read_record,
    write_records,
)
from teleworkerd.store.soundness import UnsoundError, check_schema, check_table


T = TypeVar("T")

log = logging.getLogger(__name__)

# Step n makes a schema n+1 of schema n; one that was released never changes again.
_STEPS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE job (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        request_id TEXT NOT NULL,
        spec_digest BLOB NOT NULL,
        created_at INTEGER NOT NULL,
        status BLOB NOT NULL,
        UNIQUE (owner, request_id)
    ) STRICT, WITHOUT ROWID;
    """,
    "ALTER TABLE job ADD COLUMN spec BLOB;",
    events.SCHEMA,
)

_LOG_PAGES: Final = 128  # so that the reserve has room for all that is in the log
_FILES: Final = ("", "-wal", "-shm", "-journal")
_BROKEN: Final = frozenset(
    {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_INTERRUPT}
)
_PATIENCE: Final = 60.0  # seconds for a look at all of it
_STEPS_EACH: Final = 100_000  # of SQLite's, between two looks at the clock
_ADVICE: Final = {
    sqlite3.SQLITE_FULL: "make room on its disk",
    sqlite3.SQLITE_IOERR: "the kernel's log says what is wrong with its disk",
    sqlite3.SQLITE_CANTOPEN: "its directory must be there, and open to the daemon",
    sqlite3.SQLITE_READONLY: "the daemon must be able to write it and its directory",
    sqlite3.SQLITE_BUSY: "another process has it open, and must end first",
}


class StoreError(TeleworkerError):
    """The database cannot be used; the message names the file and the cause."""


class BrokenError(StoreError):
    """The file is broken, and only another process may begin it anew."""


class UnfitRecordError(StoreError):
    """Records that no database takes; all others that came with them are written."""


# SQLite's words for it may hold what it has found, which need not be text.
_TROUBLE: Final = (sqlite3.DatabaseError, UnsoundError, UnicodeDecodeError)


class Database:
    """The records in the file at *path*; everything in one thread.

    On a full disk pieces of *reserve* are given up. Each call may raise
    `sqlite3.Error`, `OSError` and `StoreError`; `explain` makes them one.
    `was_broken` says that the file was, and that this one is new. Whoever sets
    `is_fixed` may not put another in its place: then `BrokenError` is raised.
    """

    def __init__(self, path: Path, reserve: Reserve) -> None:
        self.was_broken = False
        self.is_fixed = False
        self._path = path
        self._reserve = reserve
        self._connection: sqlite3.Connection | None = None
        self._rows: list[Row] | None = None  # as they were when it was opened

    @property
    def connection(self) -> sqlite3.Connection:
        """The open connection; raises `StoreError` when there is none."""
        if self._connection is None:
            raise StoreError(f"database {self._path} is not open")

        return self._connection

    def open(self) -> None:
        """Open or make the file; put it out of the way and begin anew if broken."""
        self._try(partial(self._spend, self._connect))
        self._rows = self._fetch()
        self._reserve.fill()

    def load(self) -> list[JobRecord]:
        """Return all records that can be read, oldest first; drop all others."""
        rows, self._rows = self._rows, None
        records = []

        if rows is None:
            rows = self._fetch()

        for row in rows:
            try:
                records.append(read_record(*row))
            except (ProtocolError, ValueError) as error:
                self._drop(row[0], str(error))

        return records

    def _fetch(self) -> list[Row]:
        rows: list[Row] = []
        is_whole = self._try(lambda: rows.extend(self.connection.execute(SELECT)))
        return rows if is_whole else []

    def write(
        self, records: Mapping[str, JobRecord | None], news: Sequence[JobNews] = ()
    ) -> None:
        """Write *records* by their ids, and *news*, in one transaction.

        None removes a record. Raises `UnfitRecordError` when there is nothing wrong
        with the database.
        """
        self._rows = None

        if not self._try(partial(self._write, records, news)):
            self._write(records, news)

    def bounds(self) -> events.Bounds:
        """Return which news there are."""
        found: list[events.Bounds] = []
        self._try(lambda: found.append(events.bounds(self.connection)))
        return found[0] if found else events.Bounds()

    def news(self, *, after: int, owner: str | None, limit: int) -> list[JobNews]:
        """Return the oldest news of *owner*, or of all, after a number."""
        found: list[JobNews] = []
        self._try(
            lambda: found.extend(
                events.select(self.connection, after=after, owner=owner, limit=limit)
            )
        )
        return found

    def close(self) -> None:
        """Close the file; twice is no harm."""
        if self._connection is not None:
            if self.is_fixed:
                # SQLite would remove the log, and may not: it is left empty instead.
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

            self._connection.close()
            self._connection = None

    def explain(self, error: Exception) -> StoreError:
        """Return what *error* means, and what to do about it, where we know."""
        advice = _ADVICE.get(_code(error))
        return StoreError(
            f"database {self._path}: {error}{f'; {advice}' if advice else ''}"
        )

    def _connect(self) -> None:
        # Each statement is a transaction, but for those that say BEGIN.
        self._connection = sqlite3.connect(self._path, isolation_level=None)

        try:
            self._prepare(self._connection)
        except BaseException:
            self.close()
            raise

    def _prepare(self, database: sqlite3.Connection) -> None:
        # Before WAL, or a full disk can kill the process through a mapped -shm file.
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        # A process that has given up root may make no files.
        database.execute("PRAGMA temp_store = MEMORY")
        # It was written by a process that the network can talk to.
        database.execute("PRAGMA trusted_schema = OFF")
        database.execute("PRAGMA cell_size_check = ON")
        deadline = time.monotonic() + _PATIENCE
        database.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS_EACH)
        database.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        (version,) = database.execute("PRAGMA user_version").fetchone()

        if version > len(_STEPS):
            raise StoreError(
                f"database {self._path} has schema {version}, this program knows"
                f" {len(_STEPS)}; it was written by a newer version"
            )

        check_schema(database, version)

        if version < len(_STEPS):
            database.executescript(
                f"BEGIN IMMEDIATE; {''.join(_STEPS[version:])}"
                f" PRAGMA user_version = {len(_STEPS)}; COMMIT;"
            )

        check_table(database, SELECT)
        check_table(database, events.SELECT)
        database.set_progress_handler(None, 0)

    def _try(self, action: Callable[[], None]) -> bool:
        """Do *action*; begin anew, and return false, if it finds the file broken."""
        try:
            action()
        except _TROUBLE as error:
            if not _is_broken(error):
                raise

            self._begin_anew(error)
            return False

        return True

    def _begin_anew(self, error: Exception) -> None:
        if self.is_fixed:
            raise BrokenError(f"database {self._path} is broken ({error})") from error

        self.close()
        aside = f"{self._path}.corrupt-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"

        for suffix in _FILES:
            with contextlib.suppress(FileNotFoundError):
                _put_aside(Path(f"{self._path}{suffix}"), Path(f"{aside}{suffix}"))

        log.error(
            "database %s is broken (%s): it is kept as %s, and begun anew; what was in"
            " it is in the jobs' directories too",
            self._path,
            error,
            aside,
        )
        self.was_broken = True
        self._spend(self._connect)

    def _drop(self, job_id: bytes, why: str) -> None:
        log.error(
            "database %s: the record of job %s cannot be read, and is dropped: %s",
            self._path,
            job_id.decode(errors="replace"),
            why,
        )

        # If it stays for now, it is dropped at the next start.
        with contextlib.suppress(sqlite3.Error):
            self.connection.execute(
                "DELETE FROM job WHERE CAST(id AS BLOB) = ?", (job_id,)
            )

    def _write(
        self, records: Mapping[str, JobRecord | None], news: Sequence[JobNews]
    ) -> None:
        try:
            self._spend(partial(self._write_together, records, news))
        except Exception as error:
            if not _is_of_record(error):
                raise
        else:
            return

        unfit = []
        self._spend(partial(self._write_together, {}, news))

        for job_id, record in records.items():
            try:
                self._spend(partial(self._write_together, {job_id: record}))
            except Exception as error:
                if not _is_of_record(error):
                    raise

                unfit.append(f"{job_id!r:.80} ({error})")

        if unfit:
            raise UnfitRecordError(
                f"database {self._path} takes no such records: {', '.join(unfit)}"
            )

    def _write_together(
        self, records: Mapping[str, JobRecord | None], news: Sequence[JobNews] = ()
    ) -> None:
        with self.connection as database:
            database.execute("BEGIN IMMEDIATE")
            events.insert(database, news)
            write_records(database, records)

    def _spend(self, action: Callable[[], T]) -> T:
        """Do *action*, again for each piece of the reserve, while the disk is full."""
        has_more = True

        while True:
            try:
                return action()
            except sqlite3.OperationalError as error:
                if _code(error) != sqlite3.SQLITE_FULL or not has_more:
                    raise

            has_more = self._reserve.release()
            self._reuse_log()

    def _reuse_log(self) -> None:
        """Let the next transaction overwrite the log, not make it longer."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _put_aside(path: Path, aside: Path) -> None:
    if path.stat().st_size == 0:
        path.unlink()
    else:
        path.rename(aside)


def _is_broken(error: Exception) -> bool:
    return not isinstance(error, sqlite3.Error) or _code(error) in _BROKEN


def _is_of_record(error: Exception) -> bool:
    """Whether it is a record that *error* is about, and not the database."""
    if isinstance(error, (sqlite3.OperationalError, StoreError, OSError, MemoryError)):
        return False

    # That class itself is for what is wrong with a file, its subclasses are not.
    return type(error) is not sqlite3.DatabaseError


def _code(error: Exception) -> int:
    """Return the primary code that SQLite gave *error*; 0 if it did not."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
