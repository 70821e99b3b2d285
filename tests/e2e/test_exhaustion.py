"""Out of descriptors, processes or memory: who comes waits or hears why, jobs go on."""

import asyncio
import errno
import re
import resource
from collections.abc import AsyncIterator
from operator import le
from typing import Final

import pytest

import twctl
from teleworkerd.protocol.errors import LaunchFailed, RequestError, Unavailable
from teleworkerd.protocol.types import JobState
from tests.e2e.daemon import Daemon
from tests.e2e.groups import left_of
from tests.e2e.pki import Certificates
from tests.e2e.processes import descendants
from tests.e2e.scarcity import (
    IDLE,
    LINES,
    SEQ,
    assert_exact,
    children,
    connect,
    descriptors,
    heard_of,
    idle_load,
    limited,
    memory,
    new_log,
    no_descriptors,
    no_processes,
    read,
    seen,
    shell,
    within,
)
from tests.e2e.waiting import wait_for
from twctl import RemoteJob as Job


pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

MOST_LOAD: Final = 0.33  # of a processor
AT_ONCE: Final = 16
JOBS: Final = 200
LACK: Final = r"no file descriptors left|\(EMFILE\)"
MANY: Final = 10  # descriptors, that a launch needs at least
LONG: Final = bytes(3 << 20)


@pytest.fixture
async def client(daemon: Daemon, certs: Certificates) -> AsyncIterator[twctl.Client]:
    """A connection as alice that is open before anything is scarce."""
    async with connect(daemon, certs) as connected:
        yield connected


async def test_server_without_descriptors(
    daemon: Daemon, certs: Certificates, client: twctl.Client
) -> None:
    """Clients wait in the queue; who is in is served; no job notices anything."""
    before, gate = daemon.log(), daemon.gate()
    old = await shell(client, SEQ)
    await within(old.wait())
    heard = await shell(client, f"echo begin; {gate.wait}; seq 3; exit 3")
    silent = await shell(client, f"{gate.wait}; {SEQ}; exit 4")
    unread = await shell(client, f"{gate.wait}; {SEQ}; exit 5")
    sleeper = await client.run(["sleep", "1000"])
    followers = [asyncio.create_task(read(job)) for job in (heard, silent)]
    await heard_of(heard, b"begin\n")
    await client.info()  # asked after them: they have their places

    with no_descriptors(daemon.server):
        newcomer = asyncio.create_task(greeted(daemon, certs))
        await seen(lambda: daemon.log_lines("clients have to wait"), what="a line")

        with pytest.raises(Unavailable, match="no file descriptors left") as refused:
            await within(read(old))

        with pytest.raises(Unavailable, match="no file descriptors left"):
            await within(read_both(old))

        assert refused.value.details == {"retry_after": 1}
        load = await idle_load(daemon)
        assert not newcomer.done()
        gate.open()
        assert_exact(await within(unread.wait()), code=5)
        assert_exact(await within(silent.wait()), code=4)
        await within(sleeper.kill())
        assert (await within(sleeper.wait())).exit_code == 137
        started = await within(client.run(["true"]))
        assert (await within(started.wait())).exit_code == 0
        assert [job.id for job in await client.list(limit=1)] == [started.id]
        assert len((await within(client.info())).load) == 3

    await within(newcomer)
    outputs = await within(asyncio.gather(*followers))
    assert outputs == [b"begin\n1\n2\n3\n", LINES]
    assert await within(read(old)) == LINES
    assert load < MOST_LOAD
    text = new_log(daemon, before)
    assert text.count("clients have to wait") == 1
    assert text.count("clients are accepted again") == 1


async def test_keeper_without_descriptors(daemon: Daemon, client: twctl.Client) -> None:
    """A launch fails with words and leaves nothing; jobs go on, and can be ended."""
    before, gate = daemon.log(), daemon.gate()
    jobs = [
        await shell(client, f"{gate.wait}; {SEQ}; exit {code}", mem=mem)
        for code, mem in ((0, None), (7, 100))
    ]
    victim = await shell(client, "sleep 1000 & sleep 1000", mem=100)
    meek = await shell(client, "trap 'exit 9' TERM; echo up; sleep 1000 & wait")
    late = await shell(client, "sleep 1000 & exec sleep 1000", timeout=1.5)
    await heard_of(meek, b"up\n")
    family, own = descendants(daemon.keeper.pid), children(daemon.keeper)

    with no_descriptors(daemon.keeper):
        with pytest.raises(LaunchFailed, match="no file descriptors left") as refused:
            await within(client.run(["true"]))

        failed = client.job(str(refused.value.details["job"]))
        assert (await failed.status()).state is JobState.FAILED
        assert children(daemon.keeper) == own
        gate.open()

        for code, job in zip((0, 7), jobs, strict=True):
            assert_exact(await within(job.wait()), code=code)
            assert await within(read(job)) == LINES

        await within(victim.kill())
        await within(meek.stop())
        ends = [await within(job.wait()) for job in (victim, meek, late)]
        load = await idle_load(daemon)

    assert [end.exit_code for end in ends] == [137, 9, 124]
    assert all(end.usage.cpu_seconds is not None for end in ends)
    assert left_of(str(job.id) for job in (*jobs, victim, meek, late, failed)) == []
    assert not {one for one in family if one.is_alive} - {daemon.keeper, daemon.server}
    again = await within(client.run(["true"]))
    assert (await within(again.wait())).exit_code == 0
    assert load < MOST_LOAD
    new_log(daemon, before)


async def test_each_descriptor_of_a_launch(
    daemon: Daemon, client: twctl.Client
) -> None:
    """Whichever descriptor is the first that is missing, nothing is left."""
    before, open_before = daemon.log(), len(descriptors(daemon.keeper))
    started = children(daemon.keeper)
    failures: list[LaunchFailed] = []
    job: Job | None = None

    while job is None:
        with no_descriptors(daemon.keeper, left=len(failures)):
            try:
                job = await within(client.run(["true"], mem=100))
            except LaunchFailed as refused:
                failures.append(refused)

    assert (await within(job.wait())).exit_code == 0
    assert len(failures) > MANY
    assert {failure.details["errno"] for failure in failures} == {errno.EMFILE}
    assert [str(one) for one in failures if not re.search(LACK, str(one))] == []
    assert left_of(str(failure.details["job"]) for failure in failures) == []
    await seen(lambda: children(daemon.keeper) == started, what="end of all")
    await seen(
        lambda: len(descriptors(daemon.keeper)) == open_before, what="descriptors"
    )
    new_log(daemon, before)


async def test_no_more_processes(daemon: Daemon, client: twctl.Client) -> None:
    """A launch fails with words; what runs goes on, and later launches work."""
    before, gate = daemon.log(), daemon.gate()
    running = await shell(client, f"{gate.wait}; {SEQ}; exit 6")

    with no_processes(daemon.keeper), no_processes(daemon.server):
        with pytest.raises(
            LaunchFailed, match=r"pids\.max.*try again later"
        ) as refused:
            await within(client.run(["true"], mem=100))

        assert refused.value.details["stage"] == "fork"
        gate.open()
        assert_exact(await within(running.wait()), code=6)
        assert await within(read(running)) == LINES

    assert left_of([str(refused.value.details["job"]), str(running.id)]) == []
    again = await within(client.run(["true"]))
    assert (await within(again.wait())).exit_code == 0
    new_log(daemon, before)


async def test_server_without_memory(
    daemon: Daemon, certs: Certificates, client: twctl.Client
) -> None:
    """Whether it refuses or dies of it: jobs do not notice, readers get every byte."""
    gate = daemon.gate()
    running = await shell(client, f"{SEQ}; {gate.wait}; exit 8")
    follower = asyncio.create_task(read(running))
    await heard_of(running, b"20000\n")
    server = daemon.server

    with limited(server, resource.RLIMIT_AS, memory(server)):
        asked = [asyncio.create_task(read_long(client)) for _ in range(8)]
        await asyncio.wait(asked, timeout=IDLE)

    answers = await within(asyncio.gather(*asked, return_exceptions=True))
    assert all(
        answer == LONG or isinstance(answer, RequestError) for answer in answers
    ), answers
    gate.open()
    assert await within(follower) == LINES
    assert_exact(await within(running.wait()), code=8)
    assert await within(read_long(client)) == LONG


async def test_keeper_without_memory(daemon: Daemon, client: twctl.Client) -> None:
    """Whatever becomes of large launches and of the server: what runs is kept."""
    gate = daemon.gate()
    running = await shell(client, f"{gate.wait}; {SEQ}; exit 2")
    exit_record = daemon.place.state / "jobs" / str(running.id) / "exit"
    keeper, large = daemon.keeper, ["x" * (100 << 10)] * 9

    with limited(keeper, resource.RLIMIT_AS, memory(keeper)):
        asked = [asyncio.create_task(client.run(["echo", *large])) for _ in range(8)]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED, timeout=IDLE)
        gate.open()
        await seen(exit_record.exists, what="end of the job")

    answers = await within(asyncio.gather(*asked, return_exceptions=True))
    assert all(isinstance(one, Job | RequestError) for one in answers), answers
    assert_exact(await within(running.wait()), code=2)
    assert await within(read(running)) == LINES
    assert keeper.is_alive
    again = await within(client.run(["true"]))
    assert (await within(again.wait())).exit_code == 0


def test_nothing_stays_open(daemon: Daemon, certs: Certificates) -> None:
    """After many jobs, read and removed, as much is open as before them."""
    family = (daemon.keeper, daemon.server)

    def count_open() -> list[int]:
        return [len(descriptors(one)) for one in family]

    asyncio.run(live_and_die(daemon, certs, jobs=1))
    before = count_open()
    asyncio.run(live_and_die(daemon, certs, jobs=JOBS))

    wait_for(
        lambda: all(map(le, count_open(), before)),
        what=f"end of what is open beyond {before}",
    )
    trash = daemon.place.state / "trash"
    wait_for(lambda: not any(trash.iterdir()), what="empty trash")


async def live_and_die(daemon: Daemon, certs: Certificates, *, jobs: int) -> None:
    """Run, read and remove so many *jobs*."""
    turns = asyncio.Semaphore(AT_ONCE)

    async with connect(daemon, certs) as connected, asyncio.TaskGroup() as group:
        for _ in range(jobs):
            group.create_task(live(connected, turns))


async def live(client: twctl.Client, turns: asyncio.Semaphore) -> None:
    """Run, read and remove one job when it has its turn."""
    async with turns:
        job = await client.run(["echo", "x"])
        assert await read(job) == b"x\n"
        await job.wait()
        await job.remove()


async def read_both(job: Job) -> None:
    """Read both streams of *job* in their order."""
    async for _ in job.interleaved():
        pass


async def read_long(client: twctl.Client) -> bytes:
    """Have a job print much, and return it."""
    job = await client.run(["head", "-c", str(len(LONG)), "/dev/zero"])
    return await read(job)


async def greeted(daemon: Daemon, certs: Certificates) -> None:
    """Connect, and leave."""
    async with connect(daemon, certs):
        pass
