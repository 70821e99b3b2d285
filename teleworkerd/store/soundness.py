"""Whether a database is what we have written, and sets nothing else going."""

import sqlite3


class UnsoundError(Exception):
    """The file is in order for SQLite, but not what we have written."""


def check_schema(database: sqlite3.Connection, version: int) -> None:
    """Raise for a file that no version of us has left so."""
    ((result,), *_) = database.execute("PRAGMA quick_check(1)").fetchall()

    if result != "ok":
        raise UnsoundError(result)

    # Nothing that we have not made, and that a look at the table would set going.
    (others,) = database.execute(
        "SELECT count(*) FROM sqlite_schema WHERE type NOT IN ('table', 'index')"
        " OR tbl_name NOT IN ('job', 'event') OR (type = 'index' AND sql IS NOT NULL)"
    ).fetchone()

    if others:
        raise UnsoundError("it has views, triggers or tables that are not ours")

    (tables,) = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()

    if bool(tables) != bool(version):
        raise UnsoundError(f"it has schema {version}, and {tables} tables")


def check_table(database: sqlite3.Connection, select: str) -> None:
    """Raise `UnsoundError` unless *select* can be asked of it."""
    try:
        database.execute(f"{select} LIMIT 0")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_ERROR:
            raise UnsoundError(str(error)) from error

        raise
