"""News on disk: numbered, kept over restarts, and forgotten when they are old."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from teleworkerd.protocol.messages import MAX_PAGE
from teleworkerd.protocol.responses import JobNews
from teleworkerd.protocol.types import JobState
from teleworkerd.store import JobStore, eventlog, events
from tests.fakes import record_of


def news(owner: str = "alice") -> JobNews:
    """Return one, without a number."""
    return JobNews(0, 5, "j", owner, JobState.RUNNING)


async def write(store: JobStore, *owners: str) -> None:
    """Have a piece of news of each of *owners* on disk."""
    for owner in owners:
        store.note(news(owner))

    await store.save(record_of())


async def numbers(
    store: JobStore, after: int = 0, owner: str | None = None
) -> tuple[list[int], int]:
    """Return the numbers of a page, and up to which there are no others."""
    page = await store.events.after(after, owner)
    return [each.number for each in page.news], page.upto


async def test_of_owners(path: Path) -> None:
    """Each owner's are found, and everybody's."""
    store = await JobStore(path).open()
    await write(store, "alice", "bob", "alice")

    assert await numbers(store) == ([1, 2, 3], 3)
    assert await numbers(store, owner="alice") == ([1, 3], 3)
    assert await numbers(store, 1, "alice") == ([3], 3)
    assert await numbers(store, 3) == ([], 3)
    await store.close()


async def test_next_server(path: Path) -> None:
    """A later server has them all, and goes on with the numbers."""
    first = await JobStore(path).open()
    await write(first, "alice", "bob")
    await first.close()
    store = await JobStore(path).open()
    await write(store, "alice")

    assert await numbers(store) == ([1, 2, 3], 3)
    assert await numbers(store, owner="alice") == ([1, 3], 3)
    assert await numbers(store, 2) == ([3], 3)
    await store.close()


async def test_pages(path: Path) -> None:
    """More than a page is told by and by, from memory and from the disk."""
    first = await JobStore(path).open()
    await write(first, *["alice"] * (MAX_PAGE + 3))
    one, upto = await numbers(first)

    assert (len(one), upto) == (MAX_PAGE, MAX_PAGE)
    assert (await numbers(first, upto))[1] == MAX_PAGE + 3
    await first.close()
    store = await JobStore(path).open()
    again, upto = await numbers(store)

    assert (again, upto) == (one, MAX_PAGE)
    assert len((await numbers(store, upto))[0]) == 3
    await store.close()


async def test_small_window(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not in memory any more is on the disk."""
    monkeypatch.setattr(eventlog, "_WINDOW", 2)
    store = await JobStore(path).open()
    await write(store, *["alice"] * 5)

    assert await numbers(store, 1) == ([2, 3, 4, 5], 5)
    assert await numbers(store, 3) == ([4, 5], 5)
    await store.close()


async def test_old_ones(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go, some at a time; who asks for what came after them is told."""
    monkeypatch.setattr(events, "KEPT", 10)
    monkeypatch.setattr(eventlog, "KEPT", 10)
    monkeypatch.setattr(events, "_TOGETHER", 5)
    store = await JobStore(path).open()

    for _ in range(23):
        await write(store, "alice")

    await store.close()
    store = await JobStore(path).open()

    assert await numbers(store) == (list(range(11, 24)), 23)
    assert store.events.has_forgotten(9)
    assert not store.events.has_forgotten(10)
    await store.close()


async def test_before_they_are_told(path: Path) -> None:
    """What is told is on disk: nothing grows before."""
    store = await JobStore(path).open()
    growth = store.events.growth()
    store.note(news())
    saved = store.save_soon(record_of())
    before = growth.is_set(), store.events.newest
    await saved
    await growth.wait()

    assert before == (False, 0)
    assert store.events.newest == 1
    await store.close()


async def test_database_anew(path: Path) -> None:
    """After a broken database the numbers are greater than any before."""
    first = await JobStore(path).open()
    await write(first, "alice")
    await first.close()
    await asyncio.to_thread(path.write_bytes, b"no database" * 1000)
    store = await JobStore(path).open()
    await write(store, "alice")
    found, _ = await numbers(store)

    assert found[0] > 1_000_000_000
    await store.close()


async def test_broken_one(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that cannot be read is left out, and the log says which."""
    first = await JobStore(path).open()
    await write(first, "alice", "alice", "alice")
    await first.close()

    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE event SET news = x'00' WHERE number = 2")

    store = await JobStore(path).open()

    assert await numbers(store) == ([1, 3], 3)
    assert "event 2 cannot be read" in caplog.text
    await store.close()
