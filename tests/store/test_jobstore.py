"""The store: what it has written is there again, and it never hangs."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from teleworkerd.protocol.spec import MAX_ARGUMENTS, MAX_COMMAND_BYTES, Limits
from teleworkerd.protocol.status import LaunchFailure, StreamStatus, Usage
from teleworkerd.protocol.types import JobState, LaunchStage, OnFull, Reason
from teleworkerd.store import JobStore, StoreError, jobstore
from tests.fakes import DEADLINE, record_of
from tests.store.faults import accept, hold, ids, refuse, run_sql


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
        lambda: store._database.connection.set_trace_callback(
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
    await refuse(store)

    with pytest.raises(StoreError):
        await store.remove("old")

    await accept(store)
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


async def test_failure_is_for_who_waits(store: JobStore) -> None:
    """A write that fails is told to all who wait, and is not the last one."""
    await refuse(store)
    ignored = store.save_soon(record_of("a"))

    with pytest.raises(
        StoreError, match=r"jobs\.sqlite: attempt to write .*; the daem"
    ):
        await store.save(record_of("b"))

    assert ignored.done()
    await accept(store)
    await store.save(record_of("c"))
    assert ids(await store.load()) == ["a", "b", "c"]


async def test_what_failed_is_tried_again(
    store: JobStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be written is, by itself; one line each when that began and ended.

    Of a job that has changed meanwhile it is what holds now.
    """
    monkeypatch.setattr(jobstore, "_RETRY", 0.01)
    await store.save(record_of("gone"))
    await refuse(store)

    for records in (("a", "b"), ("a",)):
        for name in records:
            with pytest.raises(StoreError):
                await store.save(record_of(name, exit_code=len(records)))

    with pytest.raises(StoreError):
        await store.remove("gone")

    assert "1 job records cannot be written, and wait: " in caplog.text
    await accept(store)

    async with asyncio.timeout(DEADLINE):
        while len(caplog.records) < 2:  # noqa: ASYNC110  nobody is told of it
            await asyncio.sleep(0.005)

    assert await store.load() == [
        record_of("a", exit_code=1),
        record_of("b", exit_code=2),
    ]
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


async def test_close_gives_up(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be written at the end either is named, and keeps nobody waiting."""
    store = await JobStore(path).open()
    await store.save(record_of("before"))
    await refuse(store)

    with pytest.raises(StoreError):
        await store.save(record_of("a"))

    waiting = [store.save_soon(record_of(f"{number}")) for number in range(10)]
    await asyncio.wait_for(store.close(), DEADLINE)

    assert all(future.done() for future in waiting)
    assert (
        "not recorded: the last of jobs a, 0, 1, 2, 3, 4, 5, 6, 7, 8 and 1 more: "
        in (caplog.text)
    )
    assert await reopened(path) == [record_of("before")]


async def test_last_try(path: Path) -> None:
    """What waits is tried once more at the close."""
    store = await JobStore(path).open()
    await refuse(store)

    with pytest.raises(StoreError):
        await store.save(record_of("a"))

    await accept(store)
    await store.close()

    assert await reopened(path) == [record_of("a")]


async def test_record_that_cannot_be_packed(
    store: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even a record that no one can write stops the writer, nor its companions."""
    release = hold(store)
    waiting = [store.save_soon(record_of("0"))]
    await asyncio.sleep(0)
    waiting += [
        store.save_soon(record_of("a", user="\udcff")),
        store.save_soon(record_of("b", created_at=1 << 63)),
        store.save_soon(record_of("c")),
    ]
    release()
    done = await asyncio.wait_for(
        asyncio.gather(*waiting, return_exceptions=True), DEADLINE
    )

    assert ids(await store.load()) == ["0", "c"]
    assert isinstance(done[1], StoreError)
    assert "'a' ('utf-8' codec can't encode" in caplog.text
    assert "'b' (Python int too large" in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.parametrize("works", [True, False])
async def test_waiter_may_leave(store: JobStore, *, works: bool) -> None:
    """Who cancels the future of a save stops neither this write nor the next."""
    await run_sql(store, f"PRAGMA query_only = {int(not works)}")
    release = hold(store)
    store.save_soon(record_of("a")).cancel()
    await asyncio.sleep(0)
    release()
    await accept(store)
    await asyncio.wait_for(store.save(record_of("b")), DEADLINE)

    assert ids(await store.load()) == ["a", "b"]


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
        store._database.connection.execute("SELECT 1")


async def test_only_status_changes(store: JobStore) -> None:
    """A later save leaves owner, request and digest of a job as they are."""
    await store.save(record_of())
    changed = replace(record_of(exit_code=1), spec_digest=b"other")
    await store.save(changed)

    assert await store.load() == [record_of(exit_code=1)]


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
