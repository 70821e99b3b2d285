"""The table of news: numbered, in order, and not for ever."""

import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from teleworkerd.protocol.codec import dump_record, load_record
from teleworkerd.protocol.errors import ProtocolError
from teleworkerd.protocol.responses import JobNews


log = logging.getLogger(__name__)

SCHEMA: Final = """
    CREATE TABLE event (
        number INTEGER PRIMARY KEY,
        owner TEXT NOT NULL,
        news BLOB NOT NULL
    ) STRICT;
"""
SELECT: Final = "SELECT number, news FROM event"
KEPT: Final = 100_000  # news at least
_TOGETHER: Final = 1000  # are removed at once


@dataclass(frozen=True, slots=True)
class Bounds:
    """The numbers of the oldest and the newest that are kept; both 0 if none is."""

    oldest: int = 0
    newest: int = 0


def bounds(database: sqlite3.Connection) -> Bounds:
    """Return which there are."""
    (oldest, newest) = database.execute(
        "SELECT min(number), max(number) FROM event"
    ).fetchone()
    return Bounds(oldest or 0, newest or 0)


def insert(database: sqlite3.Connection, news: Sequence[JobNews]) -> None:
    """Add *news*, and remove what is old, within a transaction."""
    database.executemany(
        # One that a transaction without an answer has written is the same again.
        "INSERT OR REPLACE INTO event (number, owner, news) VALUES (?, ?, ?)",
        [(each.number, each.owner, dump_record(each)) for each in news],
    )

    if news and news[-1].number % _TOGETHER < len(news):
        last = news[-1].number - KEPT
        database.execute("DELETE FROM event WHERE number <= ?", (last,))


def select(
    database: sqlite3.Connection, *, after: int, owner: str | None, limit: int
) -> list[JobNews]:
    """Return the news of *owner*, or of all, after that number; not what is broken."""
    rows = database.execute(
        f"{SELECT} WHERE number > ? AND (? IS NULL OR owner = ?)"
        " ORDER BY number LIMIT ?",
        (after, owner, owner, limit),
    )
    found = []

    for number, data in rows:
        try:
            news = load_record(JobNews, data)
        except ProtocolError as error:
            log.error("event %d cannot be read, and is left out: %s", number, error)
            continue

        if news.number == number:
            found.append(news)

    return found
