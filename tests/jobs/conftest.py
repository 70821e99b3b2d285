"""A manager over a real store, with an executor that the test plays."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from teleworkerd.config import Config
from teleworkerd.counters import Counters
from teleworkerd.jobs.manager import JobManager
from teleworkerd.store import JobStore
from tests.fakes import Clock, FakeExecutor, config_in


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A configuration of small pieces in the test's own directory."""
    return config_in(tmp_path)


@pytest_asyncio.fixture
async def executor(config: Config) -> FakeExecutor:
    """An executor that starts at once whatever it is given."""
    return FakeExecutor(config.jobs_dir)


@pytest_asyncio.fixture
async def store(config: Config) -> AsyncIterator[JobStore]:
    """An empty store, open."""
    store = await JobStore(config.database).open()
    yield store
    await store.close()


@pytest_asyncio.fixture
async def manager(
    config: Config, executor: FakeExecutor, store: JobStore
) -> AsyncIterator[JobManager]:
    """A manager without jobs."""
    manager = JobManager(
        executor=executor, store=store, config=config, counters=Counters(), now=Clock()
    )
    await manager.load()
    yield manager
    manager.close()
