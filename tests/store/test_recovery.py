"""A database that is broken: kept aside, begun anew, and never fatal."""

import random
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from teleworkerd.protocol.types import JobState
from teleworkerd.store import JobRecord, JobStore, StoreError
from teleworkerd.store.records import SELECT
from tests.fakes import open_descriptors, record_of
from tests.store.faults import ids


PAGE = 4096


async def write(path: Path, *records: JobRecord) -> None:
    """Have a store write *records*."""
    store = await JobStore(path).open()

    for record in records:
        await store.save(record)

    await store.close()


def many() -> list[JobRecord]:
    """Return as many records as take some pages."""
    return [record_of(f"{number:04}", user="x" * 250) for number in range(80)]


def aside(path: Path) -> list[str]:
    """Return what the broken database was renamed to, and its other files."""
    return sorted(each.name for each in path.parent.glob(f"{path.name}.corrupt-*"))


def no_database(path: Path) -> None:
    """Put something else there."""
    path.write_bytes(b"no database at all" * 100)


def half_a_database(path: Path) -> None:
    """Cut its end off."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 // PAGE * PAGE])


def broken_page(path: Path) -> None:
    """Have noise where a page was."""
    data = bytearray(path.read_bytes())
    data[2 * PAGE : 3 * PAGE] = random.Random(1).randbytes(PAGE)
    path.write_bytes(data)


def broken_schema(path: Path) -> None:
    """Have nonsense as the definition of the table."""
    change(
        path,
        "PRAGMA writable_schema = 1",
        "UPDATE sqlite_schema SET sql = 'CREATE TABLE' WHERE type = 'table'",
    )


def other_columns(path: Path) -> None:
    """Have another table of that name."""
    change(path, "DROP TABLE job", "CREATE TABLE job (id TEXT)")


def no_table(path: Path) -> None:
    """Have none."""
    change(path, "DROP TABLE job")


def no_version(path: Path) -> None:
    """Have a table, and no version."""
    change(path, "PRAGMA user_version = 0")


def change(path: Path, *statements: str) -> None:
    """Do *statements* on the database."""
    database = sqlite3.connect(path, isolation_level=None)

    for statement in statements:
        database.execute(statement)

    database.close()


def content(path: Path) -> bytes:
    """Return the bytes of the file."""
    return path.read_bytes()


def replace_content(path: Path, data: bytes) -> None:
    """Have other bytes in the file, and nothing beside it."""
    for each in path.parent.glob(f"{path.name}-*"):
        each.unlink()

    path.write_bytes(data)


def log_alone(path: Path) -> None:
    """Leave the log of a database that is gone."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE other (id)")
    log = path.with_name(f"{path.name}-wal")
    data = log.read_bytes()
    database.close()
    path.unlink()
    log.write_bytes(data)


@contextmanager
def failing(
    sql: str, code: int, monkeypatch: pytest.MonkeyPatch, *, times: int = 1000
) -> Iterator[None]:
    """Have the statement *sql* fail with *code* on new connections, so many times."""
    left = iter(range(times))
    is_corrupt = code & 0xFF == sqlite3.SQLITE_CORRUPT
    kind = sqlite3.DatabaseError if is_corrupt else sqlite3.OperationalError

    class Failing(sqlite3.Connection):
        def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
            if statement == sql and next(left, None) is not None:
                error = kind("no")
                error.sqlite_errorcode = code
                raise error

            return super().execute(statement, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Failing))
        yield


@pytest.mark.parametrize(
    "harm",
    [
        no_database,
        half_a_database,
        broken_page,
        broken_schema,
        other_columns,
        no_table,
        no_version,
    ],
)
async def test_begun_anew(
    path: Path, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], None]
) -> None:
    """What is broken is kept as it is, said once, and a new one works at once."""
    await write(path, *many())
    harm(path)
    found = content(path)
    store = await JobStore(path).open()
    await store.save(record_of("new"))

    assert store.was_broken
    assert await store.load() == [record_of("new")]
    await store.close()

    (kept,) = aside(path)
    assert content(path.parent / kept)[PAGE:] == found[PAGE:]
    assert re.fullmatch(r"jobs\.sqlite\.corrupt-\d{8}T\d{6}\.\d{6}Z", kept)
    (line,) = caplog.records
    assert line.levelname == "ERROR"
    assert f"database {path} is broken" in line.message
    assert str(path.parent / kept) in line.message
    assert open_descriptors(path.parent / kept) == 0

    again = await JobStore(path).open()
    assert (again.was_broken, await again.load()) == (False, [record_of("new")])
    await again.close()


@pytest.mark.slow
async def test_any_harm(path: Path) -> None:
    """Wherever a disk put noise, the store opens, and works."""
    await write(path, *many())
    whole = content(path)
    chance = random.Random(7)
    broken = 0

    for _ in range(60):
        noise = chance.randbytes(chance.choice([1, 16, 600]))
        # The first bytes say in which ways the file may be used, and by whom.
        start = chance.randrange(100, len(whole) - len(noise))
        replace_content(path, whole[:start] + noise + whole[start + len(noise) :])
        store = await JobStore(path).open()
        found = await store.load()
        await store.save(record_of("new"))

        assert "new" in ids(await store.load())
        assert len(found) <= 80
        broken += store.was_broken
        await store.close()

    assert 0 < broken < 60


async def test_file_beside_it(path: Path) -> None:
    """What SQLite has beside its database goes with it."""
    no_database(path)
    path.with_name(f"{path.name}-shm").write_bytes(b"old")
    await write(path, record_of("new"))
    kept, beside = aside(path)

    assert beside == f"{kept}-shm"
    assert path.with_name(beside).read_bytes() == b"old"


async def test_log_without_its_database(path: Path) -> None:
    """What a crash leaves between two of these renames is nothing to the new one."""
    log_alone(path)
    await write(path, record_of("new"))
    store = await JobStore(path).open()

    assert (store.was_broken, ids(await store.load())) == (False, ["new"])
    await store.close()


async def test_broken_when_loaded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that can be read no more when it is wanted is as broken."""
    await write(path, record_of("a"))

    code = sqlite3.SQLITE_CORRUPT_INDEX

    with failing(SELECT, code, monkeypatch, times=1):
        store = await JobStore(path).open()

    assert await store.load() == []
    assert store.was_broken
    await store.save(record_of("new"))
    assert ids(await store.load()) == ["new"]
    assert len(aside(path)) == 1
    await store.close()


async def test_broken_when_written(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does what is broken later keep anything from being written."""
    await write(path, record_of("a"))

    with failing("BEGIN IMMEDIATE", sqlite3.SQLITE_CORRUPT, monkeypatch):
        store = await JobStore(path).open()

    await store.save(record_of("new"))
    assert store.was_broken
    assert ids(await store.load()) == ["new"]
    assert len(aside(path)) == len(caplog.records) == 1
    await store.close()


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE job SET status = x'c1' WHERE id = 'b'",
        "UPDATE job SET status = x'80' WHERE id = 'b'",
        "UPDATE job SET status = x'81a66c696d69747381a36d656d01' WHERE id = 'b'",
        "UPDATE job SET status = (SELECT status FROM job WHERE id = 'a')",
        "UPDATE job SET id = CAST(x'ff' AS TEXT) WHERE id = 'b'",
        "UPDATE job SET request_id = CAST(x'ff' AS TEXT) WHERE id = 'b'",
    ],
)
async def test_record_that_cannot_be_read(
    path: Path, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    """One record that is broken is missing, and named; all others are there."""
    await write(path, record_of("a"), record_of("b"))
    change(path, harm)
    store = await JobStore(path).open()

    assert await store.load() == [record_of("a")]
    assert not store.was_broken
    (line,) = caplog.records
    assert re.search(rf"{path}: the record of job (b|\ufffd) cannot be", line.message)
    await store.save(record_of("b", state=JobState.LOST))
    assert record_of("b", state=JobState.LOST) in await store.load()
    await store.close()


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (sqlite3.SQLITE_FULL, "; make room on its disk"),
        (sqlite3.SQLITE_IOERR_READ, "; the kernel's log says what is wrong"),
        (sqlite3.SQLITE_CANTOPEN_ISDIR, "; its directory must be there"),
        (sqlite3.SQLITE_READONLY_DIRECTORY, "; the daemon must be able to write"),
        (sqlite3.SQLITE_BUSY, "; another process has it open"),
        (sqlite3.SQLITE_NOMEM, ""),
    ],
)
async def test_fault_that_is_not_the_files(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int, advice: str
) -> None:
    """What is wrong with disk or machine is said; the file stays where it is."""
    await write(path, record_of("a"))

    with (
        failing("PRAGMA quick_check(1)", code, monkeypatch),
        pytest.raises(StoreError, match=re.escape(f"{path}: no{advice}")),
    ):
        await JobStore(path).open()

    assert aside(path) == []
    store = await JobStore(path).open()
    assert await store.load() == [record_of("a")]
    await store.close()


async def test_file_in_use(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever else has it open is not taken for a fault of the file."""
    await write(path, record_of("a"))
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", partial(connect, timeout=0))
    other = connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")

    with pytest.raises(StoreError, match="locked; another process has it open"):
        await JobStore(path).open()

    other.close()
    assert aside(path) == []


@pytest.fixture
def taken(path: Path) -> Path:
    """A path that is no file."""
    path.mkdir()
    return path


async def test_directory_in_its_place(taken: Path) -> None:
    """What is no file is named, and left alone; the store can be closed."""
    store = JobStore(taken)

    with pytest.raises(StoreError, match=rf"{taken}: unable to open .*; its directory"):
        await store.open()

    with pytest.raises(StoreError, match="is not open"):
        await store.load()

    await store.close()
    assert aside(taken) == []
