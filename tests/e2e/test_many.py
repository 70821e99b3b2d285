"""A thousand jobs over one connection."""

import asyncio
from collections import defaultdict
from contextlib import AbstractAsyncContextManager

import pytest

import twctl
from teleworkerd.protocol.messages import MAX_REQUESTS
from tests.e2e.commandline import Twctl
from tests.e2e.daemon import Daemon
from tests.e2e.pki import Certificates
from tests.e2e.proxy import Proxy
from tests.e2e.waiting import wait_for


pytestmark = pytest.mark.timeout(120)

JOBS = 1000
AT_ONCE = 24


def connect(
    daemon: Daemon, certs: Certificates
) -> AbstractAsyncContextManager[twctl.Client]:
    """Connect the library as alice."""
    alice = certs.of("alice")
    return twctl.connect(daemon.address, ca=certs.ca, cert=alice.cert, key=alice.key)


async def echo_many(daemon: Daemon, certs: Certificates) -> dict[str, bytes]:
    """Run `echo x` a thousand times and return what each printed, by ID."""
    turns = asyncio.Semaphore(AT_ONCE)

    async with connect(daemon, certs) as client:

        async def echo() -> tuple[str, bytes]:
            async with turns:
                job = await client.run(["echo", "x"])
                data = b"".join([chunk.data async for chunk in job.output()])
                status = await job.wait()
                assert status.exit_code == 0
                return str(job.id), data

        return dict(await asyncio.gather(*(echo() for _ in range(JOBS))))


@pytest.fixture(scope="module")
def printed(daemon: Daemon, certs: Certificates) -> dict[str, bytes]:
    """What a thousand jobs printed."""

    async def run() -> dict[str, bytes]:
        async with asyncio.timeout(100):
            return await echo_many(daemon, certs)

    return asyncio.run(run())


def test_each_prints_its_output(printed: dict[str, bytes]) -> None:
    """A thousand runs of `echo x` give a thousand jobs, each with its x."""
    assert len(printed) == JOBS
    assert set(printed.values()) == {b"x\n"}


def test_all_are_listed(printed: dict[str, bytes], alice: Twctl) -> None:
    """All of them are listed, each once."""
    listed = alice("list", "-a", "-q", "--limit", "2000").stdout.decode().split()

    assert len(listed) == JOBS
    assert set(listed) == set(printed)


def test_ambiguous_prefix(printed: dict[str, bytes], alice: Twctl) -> None:
    """A prefix that fits several jobs is refused, and the line says so."""
    by_prefix = defaultdict(list)

    for job in printed:
        by_prefix[job[:4]].append(job)

    prefix = next((each for each, jobs in by_prefix.items() if len(jobs) > 1), None)

    if prefix is None:
        pytest.skip("no two of a thousand IDs begin alike")

    done = alice("status", prefix)

    assert done.code == 1
    assert prefix in done.error


def test_any_of_more_than_fit_a_connection(
    daemon: Daemon, certs: Certificates, alice: Twctl
) -> None:
    """Of however many jobs, `wait --any` sees each that ends."""

    async def start() -> list[str]:
        async with connect(daemon, certs) as client:
            jobs = [
                await client.run(["sleep", "300"], labels={"set": "sleepers"})
                for _ in range(MAX_REQUESTS + 2)
            ]
            return [job.id for job in jobs]

    first, *_ = asyncio.run(start())

    with Proxy(daemon.address) as proxy:
        far = Twctl(
            daemon, certs.of("alice"), environment={"TWCTL_HOST": proxy.address}
        )

        with far.start("wait", "--any", "--filter", "label=set=sleepers") as waiting:
            wait_for(lambda: proxy.accepted == 2, what="room for all of them")
            alice("kill", first)
            done = waiting.finish()

    alice("kill", "--filter", "label=set=sleepers")
    assert (done.code, done.stdout.decode()) == (137, f"{first} 137\n")
