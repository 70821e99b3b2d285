"""Jobs from Python, on this machine, without daemon or network.

::

    async with open_jobs(Config(DaemonConfig(state_dir="/var/tmp/jobs"))) as jobs:
        job, _ = await jobs.run(JobSpec((b"make",)), owner="me", request_id="1")
        status = await job.wait()
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from teleworkerd.config import Config
from teleworkerd.counters import Counters
from teleworkerd.executors.keeper_link import KeeperLink
from teleworkerd.jobs.manager import JobManager
from teleworkerd.keeper.spawn import spawn
from teleworkerd.protocol.fields import dump
from teleworkerd.store import JobStore


@asynccontextmanager
async def open_jobs(config: Config) -> AsyncIterator[JobManager]:
    """Start a keeper of our own, and end it with all its jobs at the end.

    The state directory of *config* is locked meanwhile. Raises `KeeperGone` when
    the keeper cannot start (it says why on stderr), `StoreError`.
    """
    ours, theirs = socket.socketpair()

    with theirs:
        keeper = await spawn(
            "teleworkerd.keeper",
            str(theirs.fileno()),
            json.dumps(dump(config)),
            descriptors=(theirs.fileno(),),
        )

    link = KeeperLink()

    try:
        welcome = await link.welcome(ours)
        store = await JobStore(welcome.config.database).open()

        try:
            manager = JobManager(
                executor=link.executor,
                store=store,
                config=welcome.config,
                counters=Counters(),
            )
            await manager.load()
            watch = asyncio.create_task(_settle_without(keeper, link, manager))

            try:
                yield manager
                await manager.shut_down()
            finally:
                watch.cancel()
                manager.close()
        finally:
            await store.close()
    finally:
        link.close()
        await keeper.wait()


async def _settle_without(
    keeper: asyncio.subprocess.Process, link: KeeperLink, manager: JobManager
) -> None:
    # Nobody else would say that its jobs have ended, to whoever waits for them.
    await link.over.wait()
    await keeper.wait()
    await manager.settle()
