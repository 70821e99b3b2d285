"""Calls of the library that come too early, too late, or in between."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import pytest

import twctl
from teleworkerd.protocol.messages import MAX_REQUESTS
from tests.e2e.daemon import Daemon
from tests.e2e.pki import Certificates
from tests.e2e.proxy import Proxy


pytestmark = pytest.mark.timeout(60)

MUCH: Final = bytes(3 << 20)  # more than a job is sent before it takes some


def connect(address: str, certs: Certificates) -> twctl.Client:
    """Connect as alice."""
    alice = certs.of("alice")
    return twctl.connect(address, ca=certs.ca, cert=alice.cert, key=alice.key)


@pytest.fixture
async def client(daemon: Daemon, certs: Certificates) -> AsyncIterator[twctl.Client]:
    """A connection as alice."""
    async with connect(daemon.address, certs) as connected:
        yield connected


async def printed(job: twctl.RemoteJob) -> bytes:
    """Return all that *job* writes to stdout."""
    return b"".join([chunk.data async for chunk in job.output()])


CALLS: Final[dict[str, Callable[[twctl.JobInput], Awaitable[object]]]] = {
    "write": lambda stdin: stdin.write(b"x"),
    "drain": lambda stdin: stdin.drain(),
    "close": lambda stdin: stdin.close(),
    "wait": lambda stdin: stdin.wait(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_after_it_was_left(
    client: twctl.Client, call: Callable[[twctl.JobInput], Awaitable[object]]
) -> None:
    """Who has left stdin to others sends nothing more, and waits for nothing."""
    job = await client.run(["sleep", "300"], stdin=True)

    async with asyncio.timeout(20), await job.input() as stdin:
        await stdin.write(MUCH)
        await stdin.leave()

        with pytest.raises(ValueError, match=f"input of job {job.id} is not open"):
            await call(stdin)

    await job.kill()


async def test_entered_again(client: twctl.Client) -> None:
    """It is entered once."""
    job = await client.run(["cat"], stdin=True)

    async with await job.input() as stdin:
        await stdin.write(b"once")

        with pytest.raises(RuntimeError, match="has been entered"):
            await stdin.__aenter__()

    assert await printed(job) == b"once"


async def test_wait_while_another_task_leaves(client: twctl.Client) -> None:
    """Who waits when it is left hears of it."""
    job = await client.run(["sleep", "300"], stdin=True)

    async with asyncio.timeout(20), await job.input() as stdin:
        waiting = asyncio.create_task(stdin.wait())
        await asyncio.sleep(0)
        await stdin.leave()

        with pytest.raises(ValueError, match="is not open"):
            await waiting

    await job.kill()


async def test_write_after_the_end(client: twctl.Client) -> None:
    """Nothing can be sent after the end, as with a file, nor outside of the block."""
    job = await client.run(["cat"], stdin=True)
    stdin = await job.input()

    with pytest.raises(ValueError, match="is not open"):
        await stdin.write(b"too early")

    async with stdin:
        await stdin.write(b"in time")
        await stdin.close()

        with pytest.raises(ValueError, match="is not open"):
            await stdin.write(b"too late")

    assert await printed(job) == b"in time"


@pytest.mark.slow
@pytest.mark.parametrize("watch", [twctl.Client.events, twctl.Client.top])
async def test_cut_before_it_is_asked(
    client: twctl.Client,
    certs: Certificates,
    daemon: Daemon,
    watch: Callable[[twctl.Client], AsyncIterator[object]],
) -> None:
    """What waits until it can be asked for is asked for on the next connection."""
    job = await client.run(["sleep", "300"])

    with Proxy(daemon.address) as proxy:
        async with connect(proxy.address, certs) as cut:
            waits = [
                asyncio.create_task(cut.job(job.id).wait()) for _ in range(MAX_REQUESTS)
            ]
            await asyncio.sleep(0)
            watching = asyncio.ensure_future(anext(watch(cut)))
            await asyncio.sleep(0)
            await asyncio.to_thread(proxy.reset)
            await job.kill()
            await asyncio.gather(*waits)

            assert await watching
