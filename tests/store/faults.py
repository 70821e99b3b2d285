"""A store that is held up, or whose database refuses."""

import threading
from collections.abc import Callable

from teleworkerd.store import JobRecord, JobStore
from tests.fakes import DEADLINE


async def run_sql(store: JobStore, statement: str) -> None:
    """Do *statement* on the store's own connection."""
    await store._in_thread(lambda: store._database.connection.execute(statement))


async def refuse(store: JobStore) -> None:
    """Let nothing be written until `accept`."""
    await run_sql(store, "PRAGMA query_only = 1")


async def accept(store: JobStore) -> None:
    """Let the store write again."""
    await run_sql(store, "PRAGMA query_only = 0")


def hold(store: JobStore) -> Callable[[], None]:
    """Keep the store's thread busy until the returned function is called."""
    event = threading.Event()
    store._thread.submit(event.wait, DEADLINE)
    return event.set


def ids(records: list[JobRecord]) -> list[str]:
    """Return whose *records* they are."""
    return [record.status.id for record in records]
