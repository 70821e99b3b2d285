"""Calls of the library that are cancelled at any point: nothing is left of them."""

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

import pytest

import twctl
from tests.e2e.daemon import Daemon
from tests.e2e.pki import Certificates


pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

# After how many turns of the loop: the first ones are ours, later ones the network's.
POINTS: Final = (*range(16), *(2**power for power in range(4, 13)))
Call = Callable[[twctl.Client, twctl.RemoteJob], Coroutine[Any, Any, object]]


def connect(daemon: Daemon, certs: Certificates) -> twctl.Client:
    """Connect as alice."""
    who = certs.of("alice")
    return twctl.connect(daemon.address, ca=certs.ca, cert=who.cert, key=who.key)


@pytest.fixture
async def client(daemon: Daemon, certs: Certificates) -> AsyncIterator[twctl.Client]:
    """A connection as alice."""
    async with connect(daemon, certs) as connected:
        yield connected


@pytest.fixture
async def job(client: twctl.Client) -> AsyncIterator[twctl.RemoteJob]:
    """A job that has written much, and runs until the test is over."""
    started = await client.run(["sh", "-c", "seq 1 2000000; exec sleep 1000"])
    yield started
    await started.kill()
    await started.wait()


async def cancel_after(turns: int, call: Coroutine[Any, Any, object]) -> object:
    """Return what *call* returns, or the error with which it ended."""
    task = asyncio.create_task(call)

    for _ in range(turns):
        await asyncio.sleep(0)

    task.cancel()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    return outcome


async def until_idle(client: twctl.Client) -> None:
    """Return when nothing is under way on the connection of *client*."""
    session = client._link._session
    assert session is not None

    async with asyncio.timeout(10):
        while session._exchanges._responses or session._exchanges._inboxes:
            await client.info()


async def run(client: twctl.Client, job: twctl.RemoteJob) -> None:
    """Start a job that ends by itself."""
    await client.run(["true"])


async def wait(client: twctl.Client, job: twctl.RemoteJob) -> None:
    """Wait for the job, in vain."""
    await job.wait()


async def wait_a_while(client: twctl.Client, job: twctl.RemoteJob) -> None:
    """Wait for the job until that has taken too long."""
    with suppress(TimeoutError):
        await job.wait(timeout=0.01)


async def look(client: twctl.Client, job: twctl.RemoteJob) -> None:
    """Look whether the job has ended."""
    with suppress(TimeoutError):
        await job.wait(timeout=0)


async def send(client: twctl.Client, job: twctl.RemoteJob) -> None:
    """Send another job more than it takes at once, and the end."""
    other = await client.run(["wc", "-c"], stdin=True)

    async with await other.input() as stdin:
        await stdin.write(bytes(1 << 20))
        await stdin.drain()


async def kill(client: twctl.Client, job: twctl.RemoteJob) -> None:
    """Send the job a signal that it does not mind."""
    await job.kill(signal.SIGURG)


async def stop(client: twctl.Client, job: twctl.RemoteJob) -> None:
    """Stop another job."""
    other = await client.run(["sleep", "1000"])
    await other.stop()


async def list_jobs(client: twctl.Client, job: twctl.RemoteJob) -> None:
    """List the jobs."""
    await client.list(limit=5)


async def output(client: twctl.Client, job: twctl.RemoteJob) -> None:
    """Read what the job writes, without an end."""
    async for _ in job.output():
        await asyncio.sleep(0)


async def interleaved(client: twctl.Client, job: twctl.RemoteJob) -> None:
    """Read both streams, without an end."""
    async for _ in job.interleaved():
        pass


async def top(client: twctl.Client, job: twctl.RemoteJob) -> None:
    """Watch what the job uses, without an end."""
    async for _ in client.top([job.id], interval=0.1):
        pass


async def events(client: twctl.Client, job: twctl.RemoteJob) -> None:
    """Follow what becomes of jobs, without an end."""
    async for _ in client.events():
        pass


@pytest.mark.parametrize(
    "call",
    [
        *(run, wait, wait_a_while, look, send, kill, stop, list_jobs),
        *(output, interleaved, top, events),
    ],
)
async def test_cancelled_call(
    client: twctl.Client, job: twctl.RemoteJob, call: Call
) -> None:
    """A call that is cancelled leaves no task and no request; the client is of use."""
    session = client._link._session
    assert session is not None
    tasks = asyncio.all_tasks()
    slots = session._exchanges._slots._value

    for turns in POINTS:
        outcome = await cancel_after(turns, call(client, job))

        assert outcome is None or isinstance(outcome, asyncio.CancelledError), turns

    await until_idle(client)
    assert client._link._session is session
    assert session._exchanges._slots._value == slots
    assert client._link.places == []
    assert asyncio.all_tasks() == tasks
    await end_all(client, but=job)


async def test_cancelled_more_often_than_there_is_room(
    client: twctl.Client, job: twctl.RemoteJob
) -> None:
    """The server keeps none of the readers that were cancelled: there is room."""
    session = client._link._session
    assert session is not None

    for _ in range(session._exchanges._slots._value + 8):
        await cancel_after(50, output(client, job))

    async for chunk in job.output():
        assert chunk.offset == 0
        break


async def test_cancelled_connect(daemon: Daemon, certs: Certificates) -> None:
    """A connection that is cancelled leaves no task; the same client connects."""
    tasks = asyncio.all_tasks()
    client = connect(daemon, certs)

    async def enter() -> None:
        async with client:
            await client.info()

    for turns in POINTS:
        outcome = await cancel_after(turns, enter())

        assert outcome is None or isinstance(outcome, asyncio.CancelledError), turns

    assert asyncio.all_tasks() == tasks
    await enter()


async def test_cancelled_run_is_found_again(client: twctl.Client) -> None:
    """A run that was cancelled is one job, whoever asks again with its request id."""
    before = {status.id for status in await client.list()}
    found = []

    for turns in POINTS:
        request_id = uuid.uuid4().hex
        await cancel_after(turns, client.run(["true"], request_id=request_id))
        again = await client.run(["true"], request_id=request_id)
        once_more = await client.run(["true"], request_id=request_id)

        assert again.id == once_more.id
        found.append(again)

    await asyncio.gather(*(job.wait() for job in found))
    after = {status.id for status in await client.list()}
    assert after - before == {job.id for job in found}


async def end_all(client: twctl.Client, *, but: twctl.RemoteJob) -> None:
    """End the jobs that cancelled calls have started, and wait until they have."""
    running = [
        client.job(status.id)
        for status in await client.list()
        if not status.state.is_final and status.id != but.id
    ]
    ends: list[Awaitable[object]] = [job.kill() for job in running]
    await asyncio.gather(*ends)
    await asyncio.gather(*(job.wait() for job in running))
