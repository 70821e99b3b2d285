"""Older and newer databases, and what is left of a change that was cut short."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from teleworkerd.protocol.codec import dump_record
from teleworkerd.store import JobStore, StoreError, database
from tests.fakes import TRUE, record_of
from tests.keeper.kept import ROOT


TODAY: Final = len(database._STEPS)  # the schema that the program knows

STEP: Final = """
    ALTER TABLE job ADD COLUMN note TEXT NOT NULL DEFAULT 'none';
    CREATE TABLE other (id TEXT) STRICT;
"""

# Dies in the middle of a step, after the first of its changes.
DYING: Final = f"""
import asyncio, os, pathlib, sqlite3, sys
from teleworkerd.store import JobStore, database

class Dying(sqlite3.Connection):
    def __init__(self, *given, **options):
        super().__init__(*given, **options)
        self.create_function("die", 0, lambda: os.kill(os.getpid(), 9))

connect = sqlite3.connect
sqlite3.connect = lambda *given, **options: connect(*given, factory=Dying, **options)
database._STEPS += ({STEP!r} + "INSERT INTO other VALUES (die());",)
asyncio.run(JobStore(pathlib.Path(sys.argv[1])).open())
"""


async def write(path: Path) -> None:
    """Write a record with the schema of today."""
    store = await JobStore(path).open()
    await store.save(record_of())
    await store.close()


def die_in_a_step(path: Path) -> int:
    """Have another process take a step; return how it ended."""
    command = [sys.executable, "-c", DYING, str(path)]
    return subprocess.run(command, cwd=ROOT, check=False, timeout=30).returncode


def facts(path: Path) -> tuple[int, list[str]]:
    """Return the version of the database, and its tables."""
    connection = sqlite3.connect(path)
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    tables = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"
    ).fetchall()
    connection.close()
    return version, [name for (name,) in tables]


@pytest.fixture
def _newer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the program of tomorrow."""
    monkeypatch.setattr(database, "_STEPS", (*database._STEPS, STEP))


async def test_older(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database of an older version is brought up to date, with all that is in it."""
    await write(path)
    steps = (*database._STEPS, STEP, "DROP TABLE other;")
    monkeypatch.setattr(database, "_STEPS", steps)
    store = await JobStore(path).open()

    assert await store.load() == [record_of()]
    assert not store.was_broken
    await store.close()
    assert facts(path) == (TODAY + 2, ["event", "job"])


async def test_first_version(path: Path) -> None:
    """A database of the first version has all that it had, and what is new."""
    record = record_of()

    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(f"{database._STEPS[0]} PRAGMA user_version = 1;")
        connection.execute(
            "INSERT INTO job VALUES (?, ?, ?, ?, ?, ?)",
            (
                record.status.id,
                record.status.owner,
                record.request_id,
                record.spec_digest,
                record.status.created_at,
                dump_record(record.status),
            ),
        )

    store = await JobStore(path).open()
    await store.save(replace(record, spec=TRUE))

    assert await store.load() == [replace(record, spec=TRUE)]
    await store.close()


@pytest.mark.usefixtures("_newer")
async def test_new(path: Path) -> None:
    """A new database has all steps behind it."""
    store = await JobStore(path).open()
    await store.close()

    assert facts(path) == (TODAY + 1, ["event", "job", "other"])


async def test_step_that_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that cannot be taken leaves the database as it was."""
    await write(path)
    steps = (*database._STEPS, STEP, "SELECT nonsense;")

    with monkeypatch.context() as patch:
        patch.setattr(database, "_STEPS", steps)

        with pytest.raises(StoreError, match=rf"{path}: no such column"):
            await JobStore(path).open()

    assert facts(path) == (TODAY, ["event", "job"])
    store = await JobStore(path).open()
    assert await store.load() == [record_of()]
    await store.close()


async def test_killed_in_a_step(path: Path) -> None:
    """Nor does one that is killed in the middle of a step leave half of it."""
    await write(path)

    assert await asyncio.to_thread(die_in_a_step, path) == -signal.SIGKILL
    assert facts(path) == (TODAY, ["event", "job"])
    store = await JobStore(path).open()
    assert await store.load() == [record_of()]
    await store.close()


async def test_newer_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database of a newer version is left alone."""
    with monkeypatch.context() as patch:
        patch.setattr(database, "_STEPS", (*database._STEPS, STEP))
        await write(path)

    versions = rf"{path} has schema {TODAY + 1}, .* knows {TODAY}; it was"

    with pytest.raises(StoreError, match=versions):
        await JobStore(path).open()

    assert facts(path) == (TODAY + 1, ["event", "job", "other"])
    assert [each.name for each in path.parent.glob("*corrupt*")] == []
