"""The store: what it has written is there again, and it never hangs."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from teleworkerd.protocol.types import (
    MAX_ARGUMENTS,
    MAX_COMMAND_BYTES,
    JobState,
    LaunchFailure,
    LaunchStage,
    Limits,
    OnFull,
    Reason,
    StreamStatus,
    Usage,
)
from teleworkerd.store import SCHEMA_VERSION, JobStore, StoreError
from tests.fakes import DEADLINE, open_descriptors, record_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database is, or will be."""
    return tmp_path / "jobs.sqlite"


@pytest_asyncio.fixture
async def store(path: Path) -> AsyncIterator[JobStore]:
    """An empty store, open."""
    store = await JobStore(path).open()
    yield store
    await store.close()


async def reopened(path: Path) -> list[object]:
    """Return what another store finds."""
    store = await JobStore(path).open()
    records: list[object] = [*await store.load()]
    await store.close()
    return records


async def run_sql(store: JobStore, statement: str) -> None:
    """Do *statement* on the store's own connection."""
    await store._in_thread(lambda: store._connection.execute(statement))


def hold(store: JobStore) -> Callable[[], None]:
    """Keep the store's thread busy until the returned function is called."""
    event = threading.Event()
    store._thread.submit(event.wait, DEADLINE)
    return event.set


FULL = record_of(
    command=(b"make", b"\xff\x80"),
    state=JobState.FAILED,
    limits=Limits(4, 1, 100),
    name="build",
    labels={"ä": "\n"},
    exit_code=126,
    signal=9,
    reason=Reason.LAUNCH,
    error=LaunchFailure(LaunchStage.USER, 1, "no"),
    started_at=2,
    ended_at=(1 << 63) - 1,
    user="nobody",
    pid=1,
    workdir=b"/\xfe",
    timeout=0.5,
    applied=Limits(mem=4),
    not_applied={"io": "why"},
    usage=Usage(0.5, 1, 2, 3, 4, 5),
    stdout=StreamStatus(0, 7, b"\0" * 32, 3),
    stderr=StreamStatus(dropped=(1 << 63) - 1),
    merge=True,
    output_limit=0,
    on_full=OnFull.DROP,
    held_up="ä",
)
LONG = record_of(command=(b"x" * (MAX_COMMAND_BYTES // 16 - 1),) * 16)
MANY = record_of(command=(b"x",) * MAX_ARGUMENTS)


@pytest.mark.parametrize("record", [FULL, LONG, MANY], ids=["full", "long", "many"])
async def test_everything_survives(path: Path, record: object) -> None:
    """Every field, and the largest command, is the same after a reopening."""
    assert isinstance(record, type(FULL))
    store = await JobStore(path).open()
    await store.save(record)
    await store.close()

    assert await reopened(path) == [record]


async def test_oldest_first(store: JobStore) -> None:
    """Records come back in the order in which the jobs were made."""
    records = [record_of(name, created_at=at) for name, at in (("b", 1), ("a", 2))]
    await asyncio.gather(*map(store.save, reversed(records)))

    assert await store.load() == records


async def test_close_writes_what_waits(path: Path) -> None:
    """What was saved without waiting is on disk after the close."""
    store = await JobStore(path).open()
    waiting = [store.save_soon(record_of("a")), store.save_soon(record_of("b"))]
    await store.close()

    assert all(future.done() for future in waiting)
    assert await reopened(path) == [record_of("a"), record_of("b")]


async def test_saves_are_gathered(store: JobStore) -> None:
    """While the disk is busy all saves become one; of one job's the last counts."""
    begun: list[str] = []
    await store._in_thread(
        lambda: store._connection.set_trace_callback(
            lambda sql: begun.append(sql) if sql.startswith("BEGIN") else None
        )
    )
    release = hold(store)
    first = store.save_soon(record_of("a"))
    await asyncio.sleep(0)
    later = [store.save_soon(record_of(f"{number}")) for number in range(50)]
    later += [store.save_soon(record_of("0", exit_code=number)) for number in range(5)]
    assert not first.done()

    release()
    await asyncio.wait_for(asyncio.gather(first, *later), DEADLINE)

    assert len(begun) == 2
    assert record_of("0", exit_code=4) in await store.load()
    assert len(await store.load()) == 51


async def test_removed(path: Path) -> None:
    """A record that was removed is gone for good; one that never was is no harm."""
    store = await JobStore(path).open()
    await store.save(record_of("a"))
    await store.save(record_of("b"))
    await store.remove("a")
    await store.remove("never")
    await store.close()

    assert await reopened(path) == [record_of("b")]


@pytest.mark.parametrize(
    ("order", "stays"),
    [("sr", False), ("rs", True), ("srs", True), ("rsr", False), ("rr", False)],
)
async def test_saved_and_removed_together(
    store: JobStore, order: str, *, stays: bool
) -> None:
    """Of what waits for one job the last counts, be it a record or its removal."""
    await store.save(record_of("a", exit_code=1))
    release = hold(store)
    first = store.save_soon(record_of("b"))
    await asyncio.sleep(0)
    later = [
        store.remove_soon("a") if each == "r" else store.save_soon(record_of("a"))
        for each in order
    ]
    release()
    await asyncio.wait_for(asyncio.gather(first, *later), DEADLINE)

    assert (record_of("a") in await store.load()) == stays
    assert record_of("b") in await store.load()


async def test_request_free_again(store: JobStore) -> None:
    """A removal makes room for the next job of its request, in one transaction."""
    old = record_of("old")
    new = replace(record_of("new"), request_id=old.request_id)
    await store.save(old)
    release = hold(store)
    waiting = [
        store.save_soon(record_of("x")),
        store.save_soon(new),
        store.remove_soon("old"),
    ]
    release()
    await asyncio.wait_for(asyncio.gather(*waiting), DEADLINE)

    assert await store.load() == [new, record_of("x")]


async def test_request_that_was_not_freed(store: JobStore) -> None:
    """A record whose removal failed gives way, and stops no write of others."""
    old = record_of("old")
    new = replace(record_of("new"), request_id=old.request_id)
    await store.save(old)
    await run_sql(store, "PRAGMA query_only = 1")

    with pytest.raises(StoreError):
        await store.remove("old")

    await run_sql(store, "PRAGMA query_only = 0")
    await asyncio.gather(store.save(new), store.save(record_of("x")))

    assert await store.load() == [new, record_of("x")]


async def test_cancelled_removal_is_done(store: JobStore) -> None:
    """A removal goes on when its caller is cancelled."""
    await store.save(record_of("a"))
    release = hold(store)
    caller = asyncio.create_task(store.remove("a"))
    await asyncio.sleep(0)
    caller.cancel()
    release()
    await asyncio.wait_for(store.save(record_of("b")), DEADLINE)

    assert await store.load() == [record_of("b")]


async def test_failure_is_for_who_waits(
    store: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A write that fails is told to all who wait, logged, and not the last one."""
    await run_sql(store, "PRAGMA query_only = 1")
    ignored = store.save_soon(record_of("a"))

    with pytest.raises(StoreError, match=r"jobs\.sqlite: attempt to write"):
        await store.save(record_of("b"))

    assert ignored.done()
    assert "2 job records could not be written" in caplog.text
    await run_sql(store, "PRAGMA query_only = 0")
    await store.save(record_of("c"))
    assert await store.load() == [record_of("c")]


async def test_record_that_cannot_be_packed(store: JobStore) -> None:
    """Not even a record that no one can write stops the writer."""
    with pytest.raises(StoreError, match="surrogates not allowed"):
        await asyncio.wait_for(store.save(record_of("a", user="\udcff")), DEADLINE)

    with pytest.raises(StoreError, match="too large"):
        await asyncio.wait_for(store.save(record_of("a", created_at=1 << 63)), DEADLINE)

    await asyncio.wait_for(store.save(record_of("b")), DEADLINE)
    assert await store.load() == [record_of("b")]


@pytest.mark.parametrize("works", [True, False])
async def test_waiter_may_leave(store: JobStore, *, works: bool) -> None:
    """Who cancels the future of a save stops neither this write nor the next."""
    await run_sql(store, f"PRAGMA query_only = {int(not works)}")
    release = hold(store)
    store.save_soon(record_of("a")).cancel()
    await asyncio.sleep(0)
    release()
    await run_sql(store, "PRAGMA query_only = 0")
    await asyncio.wait_for(store.save(record_of("b")), DEADLINE)

    assert record_of("b") in await store.load()
    assert (record_of("a") in await store.load()) == works


async def test_cancelled_save_is_written(store: JobStore) -> None:
    """A save goes on when its caller is cancelled; others do not notice."""
    release = hold(store)
    caller = asyncio.create_task(store.save(record_of("a")))
    other = asyncio.create_task(store.save(record_of("b")))
    await asyncio.sleep(0)
    caller.cancel()
    release()
    await asyncio.wait_for(other, DEADLINE)

    assert caller.cancelled()
    assert await store.load() == [record_of("a"), record_of("b")]


async def test_one_thread(store: JobStore) -> None:
    """The connection belongs to the store's thread, and not to the loop's."""
    await asyncio.gather(*(store.save(record_of(str(each))) for each in range(20)))

    with pytest.raises(sqlite3.ProgrammingError, match="thread"):
        store._connection.execute("SELECT 1")


async def test_only_status_changes(store: JobStore) -> None:
    """A later save leaves owner, request and digest of a job as they are."""
    await store.save(record_of())
    changed = replace(record_of(exit_code=1), spec_digest=b"other")
    await store.save(changed)

    assert await store.load() == [record_of(exit_code=1)]


async def test_newer_schema_refused(path: Path) -> None:
    """A database of a newer version is left alone."""
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    database.close()

    with pytest.raises(StoreError, match=rf"{path} has schema 2, .* knows 1"):
        await JobStore(path).open()

    database = sqlite3.connect(path)
    assert database.execute("PRAGMA user_version").fetchone() == (2,)
    database.close()


@pytest.fixture
def corrupt(path: Path) -> Path:
    """A file that is no database."""
    path.write_bytes(b"no database at all" * 100)
    return path


async def test_corrupt_file(corrupt: Path) -> None:
    """A file that is no database is named, and not kept open."""
    store = JobStore(corrupt)

    with pytest.raises(StoreError, match=rf"{corrupt}: file is not a database"):
        await store.open()

    assert open_descriptors(corrupt) == 0

    with pytest.raises(StoreError, match="is not open"):
        await store.load()

    await store.close()


@pytest.mark.parametrize(
    "status",
    [b"\xc1", b"\x80", b"\x90", b"\x81\xa6limits\x81\xa3mem\x01"],
)
async def test_corrupt_record(store: JobStore, status: bytes) -> None:
    """A record that cannot be read is an error of the store, with its file."""
    await store.save(record_of())
    await run_sql(store, f"UPDATE job SET status = x'{status.hex()}'")

    with pytest.raises(StoreError, match=r"jobs\.sqlite: "):
        await store.load()


async def test_no_directory(tmp_path: Path) -> None:
    """A place that does not exist is named."""
    with pytest.raises(StoreError, match=r"missing/jobs\.sqlite: unable to open"):
        await JobStore(tmp_path / "missing" / "jobs.sqlite").open()


async def test_database_in_use(store: JobStore, path: Path) -> None:
    """Two stores cannot have the same file."""
    await store.save(record_of())
    database = sqlite3.connect(path, timeout=0)

    with pytest.raises(sqlite3.OperationalError, match="locked"):
        database.execute("SELECT * FROM job")

    database.close()


async def test_late_save_is_an_error(path: Path) -> None:
    """What comes after the close is refused, and nobody waits for it for ever."""
    store = await JobStore(path).open()
    await store.close()

    with pytest.raises(StoreError, match=r"jobs\.sqlite"):
        await asyncio.wait_for(store.save(record_of()), DEADLINE)
