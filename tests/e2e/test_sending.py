"""Input for jobs over a real network: each byte is read once, whatever is cut."""

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

import pytest

import twctl
from teleworkerd.protocol.errors import InvalidRequest, JobNotFound
from teleworkerd.protocol.spec import TerminalSize
from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import InputEndReason, JobState, Reason
from tests.e2e.daemon import Daemon, StartDaemon
from tests.e2e.pki import Certificates
from tests.e2e.proxy import Fault, Proxy


pytestmark = pytest.mark.timeout(90)

DIGEST: Final = ["sha256sum"]
SIZE: Final = 3 << 20  # bytes
EOF: Final = InputEndReason.EOF


def connect(
    address: str, certs: Certificates, name: str = "alice"
) -> AbstractAsyncContextManager[twctl.Client]:
    """Connect as *name*."""
    who = certs.of(name)
    return twctl.connect(address, ca=certs.ca, cert=who.cert, key=who.key)


@pytest.fixture
async def client(daemon: Daemon, certs: Certificates) -> AsyncIterator[twctl.Client]:
    """A connection as alice."""
    async with connect(daemon.address, certs) as connected:
        yield connected


@pytest.fixture
def proxy(daemon: Daemon) -> Iterator[Proxy]:
    """A network that is in order until the test wants it otherwise."""
    with Proxy(daemon.address) as between:
        yield between


async def printed(job: twctl.RemoteJob) -> bytes:
    """Return all that *job* writes to stdout."""
    return b"".join([chunk.data async for chunk in job.output()])


async def until_printed(job: twctl.RemoteJob, data: bytes) -> None:
    """Wait until *job* has written *data*."""
    seen = b""

    async for chunk in job.output():
        seen += chunk.data

        if data in seen:
            return

    raise AssertionError(seen)


async def send(job: twctl.RemoteJob, data: bytes) -> twctl.JobInput:
    """Send *data* and the end; return how that went."""
    async with await job.input() as stdin:
        await stdin.write(data)

    return stdin


async def test_all_of_it(client: twctl.Client) -> None:
    """A job reads what was sent, and its end."""
    data = os.urandom(SIZE)
    job = await client.run(DIGEST, stdin=True)

    async with await job.input() as stdin:
        await stdin.write(data)
        reason = await stdin.close()

    assert (reason, stdin.taken) == (EOF, SIZE)
    assert (await printed(job)).split()[0] == hashlib.sha256(data).hexdigest().encode()
    assert (await job.wait()).exit_code == 0


async def test_live(client: twctl.Client) -> None:
    """What is sent is read at once, and answered."""
    job = await client.run(["cat"], stdin=True)

    async with await job.input() as stdin:
        for line in (b"one\n", b"two\n", b"three\n"):
            await stdin.write(line)
            await until_printed(job, line)

    assert await printed(job) == b"one\ntwo\nthree\n"


@pytest.mark.slow
async def test_cut_again_and_again(
    daemon: Daemon, certs: Certificates, proxy: Proxy
) -> None:
    """Over a network that is reset all the time, each byte arrives once."""
    data = os.urandom(SIZE)
    proxy.usual = Fault(up=200_000)

    async with connect(proxy.address, certs) as client:
        job = await client.run(DIGEST, stdin=True)

        async with await job.input() as stdin:
            for start in range(0, SIZE, 100_000):
                await stdin.write(data[start : start + 100_000])

    async with connect(daemon.address, certs) as client:
        job = client.job(job.id)
        digest = hashlib.sha256(data).hexdigest().encode()
        assert (await printed(job)).split()[0] == digest

    assert proxy.accepted > 5


@pytest.mark.slow
async def test_server_that_dies(start_daemon: StartDaemon, certs: Certificates) -> None:
    """A server that is killed again and again loses none of it."""
    daemon = start_daemon()
    data = os.urandom(SIZE)

    async with connect(daemon.address, certs) as client:
        job = await client.run(DIGEST, stdin=True)

        async with await job.input() as stdin:
            for start in range(0, SIZE, SIZE // 4):
                await stdin.write(data[start : start + SIZE // 4])
                server = daemon.server
                os.kill(server.pid, signal.SIGKILL)
                await asyncio.to_thread(daemon.successor_of, server)

        assert stdin.taken == SIZE
        digest = hashlib.sha256(data).hexdigest().encode()
        assert (await printed(job)).split()[0] == digest


async def test_job_that_does_not_read(client: twctl.Client) -> None:
    """What it does not take waits with the sender; its end is no error."""
    job = await client.run(
        ["sh", "-c", "echo ready; head -c 3; exec sleep 300"], stdin=True
    )

    async with await job.input() as stdin:
        await stdin.write(bytes(SIZE))
        await until_printed(job, bytes(3))
        assert not await within(1, stdin.drain())
        assert 0 < stdin.taken <= 1 << 20
        await job.kill()
        reason = await stdin.wait()

    # Its death closes its stdin, and may be seen as that.
    assert reason in {InputEndReason.ENDED, InputEndReason.CLOSED}
    assert (await job.wait()).reason is Reason.KILLED


async def test_job_that_closes_it(client: twctl.Client) -> None:
    """A job that closes its stdin is no error either: it takes no more."""
    job = await client.run(["sh", "-c", "exec <&-; sleep 300"], stdin=True)

    stdin = await send(job, bytes(SIZE))
    await job.kill()

    assert stdin.ended is InputEndReason.CLOSED


async def test_another_sender(client: twctl.Client) -> None:
    """The later one goes on where the first had come to, which is told so."""
    job = await client.run(["cat"], stdin=True)

    async with await job.input() as first:
        await first.write(b"one\n")
        await first.drain()

        async with await job.input() as second:
            assert await first.wait() is InputEndReason.TAKEN_OVER
            await second.write(b"two\n")

        with pytest.raises(twctl.InputEnded, match="another client"):
            await first.write(b"three\n")

    assert await printed(job) == b"one\ntwo\n"


async def test_left_with_an_error(client: twctl.Client) -> None:
    """Who leaves with an error leaves stdin open for somebody else."""
    job = await client.run(["cat"], stdin=True)

    async def fail() -> None:
        async with await job.input() as stdin:
            await stdin.write(b"one\n")
            await stdin.drain()
            raise KeyError

    with pytest.raises(KeyError):
        await fail()

    await send(job, b"two\n")

    assert await printed(job) == b"one\ntwo\n"


async def test_none(client: twctl.Client) -> None:
    """A job that was started without it reads nothing, and cannot be sent to."""
    job = await client.run(["cat"])

    with pytest.raises(InvalidRequest, match="without stdin"):
        await send(job, b"x")

    assert (await job.wait()).exit_code == 0


async def test_of_another(
    client: twctl.Client, daemon: Daemon, certs: Certificates
) -> None:
    """Nobody sends to the job of somebody else."""
    job = await client.run(["cat"], stdin=True)

    async with connect(daemon.address, certs, "bob") as other:
        with pytest.raises(JobNotFound):
            await send(other.job(job.id), b"x")

    await job.kill()


async def test_stdin_by_name(client: twctl.Client) -> None:
    """The job can open its stdin once more, by name."""
    job = await client.run(["cat", "/dev/stdin"], stdin=True)

    await send(job, b"by name")

    assert await printed(job) == b"by name"


async def within(seconds: float, waiting: Coroutine[Any, Any, None]) -> bool:
    """Return whether *waiting* is done within so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await waiting
    except TimeoutError:
        return False

    return True


async def ended(job: twctl.RemoteJob) -> tuple[bytes, JobStatus]:
    """Return what *job* wrote, and how it ended."""
    return await printed(job), await job.wait()


async def test_terminal(client: twctl.Client) -> None:
    """All three are a terminal, of that size; what is written is one stream."""
    script = (
        "test -t 0 && test -t 1 && test -t 2 && stty size; echo err >&2; ps -o tty= $$"
    )
    job = await client.run(["sh", "-c", script], tty=TerminalSize(101, 31))

    data, status = await ended(job)

    assert data.startswith(b"31 101\r\nerr\r\npts/")
    assert (status.tty, status.stderr.end) == (True, 0)


async def test_resize(client: twctl.Client) -> None:
    """A change of size is there, and the job hears of it."""
    script = "trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.05; done"
    job = await client.run(["sh", "-c", script], tty=TerminalSize(80, 24))
    await until_printed(job, b"ready")
    await job.resize(90, 20)

    data, status = await ended(job)

    assert data == b"ready\r\n20 90\r\n"
    assert status.exit_code == 5


async def test_keys(client: twctl.Client) -> None:
    """Keys are echoed and mean something: Ctrl-C interrupts, Ctrl-D is the end."""
    script = "trap 'echo interrupted' INT; echo ready; read line; cat; echo over"
    job = await client.run(["sh", "-c", script], tty=TerminalSize(80, 24))
    await until_printed(job, b"ready")

    async with await job.input() as stdin:
        await stdin.write(b"\x03")
        await until_printed(job, b"interrupted")
        await stdin.write(b"one\ntwo\n\x04")
        data, _ = await ended(job)

    assert data.endswith(b"one\r\ntwo\r\nover\r\n")


@pytest.mark.parametrize(
    ("last", "printed"), [(b"two\n", b"two\r\nover\r\n"), (b"two", b"twoover\r\n")]
)
async def test_end_on_a_terminal(
    client: twctl.Client, last: bytes, printed: bytes
) -> None:
    """The end of what is sent is an end there as well, within a line too."""
    script = "stty -echo; echo ready; cat; echo over"
    job = await client.run(["sh", "-c", script], tty=TerminalSize(80, 24))
    await until_printed(job, b"ready")
    await send(job, b"one\n" + last)

    data, status = await ended(job)

    assert data == b"ready\r\none\r\n" + printed
    assert status.exit_code == 0


@pytest.mark.slow
async def test_terminal_that_is_not_read(client: twctl.Client) -> None:
    """Much output through a terminal is whole, and ends with the job."""
    job = await client.run(
        ["sh", "-c", "stty -onlcr; seq 1 300000"], tty=TerminalSize()
    )

    data, _ = await ended(job)

    assert data == b"".join(b"%d\n" % number for number in range(1, 300_001))


async def test_wait_for_all(client: twctl.Client, daemon: Daemon) -> None:
    """The job goes on until its last process has ended; the code is the first's."""
    gate = daemon.gate()
    script = f"({gate.wait}; echo late) & echo early; exit 3"
    job = await client.run(["sh", "-c", script], wait_all=True)
    await until_printed(job, b"early\n")
    running = (await job.status()).state
    gate.open()

    data, status = await ended(job)

    assert running is JobState.RUNNING
    assert data == b"early\nlate\n"
    assert (status.exit_code, status.reason) == (3, Reason.EXITED)


async def test_kill_while_waiting_for_all(client: twctl.Client, tmp_path: Path) -> None:
    """What is left can be killed, and is."""
    job = await client.run(["sh", "-c", "sleep 300 & echo early"], wait_all=True)
    await until_printed(job, b"early\n")
    await job.kill()

    status = await job.wait()

    assert (status.state, status.reason) == (JobState.STOPPED, Reason.KILLED)


async def test_time_out_while_waiting_for_all(client: twctl.Client) -> None:
    """The time-out counts until the last has ended."""
    job = await client.run(
        ["sh", "-c", "sleep 300 & echo early"], wait_all=True, timeout=0.5
    )

    status = await job.wait()

    assert (status.exit_code, status.reason) == (124, Reason.TIMEOUT)


async def test_events(client: twctl.Client) -> None:
    """What becomes of a job is told, each state once, and later ones live."""
    job = await client.run(["cat"], stdin=True)
    found: list[JobState] = []

    async for news in client.events():
        found += [each.state for each in news.jobs if each.job == job.id]

        if JobState.RUNNING in found and JobState.STOPPING not in found:
            await job.kill()

        if JobState.STOPPED in found:
            break

    assert found == [
        JobState.STARTING,
        JobState.RUNNING,
        JobState.STOPPING,
        JobState.STOPPED,
    ]


@pytest.mark.slow
async def test_events_over_restarts(
    start_daemon: StartDaemon, certs: Certificates
) -> None:
    """Whatever dies, there is no gap in the news and nothing twice."""
    daemon = start_daemon()
    numbers: list[int] = []
    states: dict[str, list[JobState]] = {}

    async with connect(daemon.address, certs) as client:

        async def listen() -> None:
            async for news in client.events():
                for each in news.jobs:
                    numbers.append(each.number)
                    states.setdefault(each.job, []).append(each.state)

                if sum(JobState.FINISHED in found for found in states.values()) == 30:
                    return

        listening = asyncio.create_task(listen())

        for _ in range(3):
            for _ in range(10):
                await client.run(["true"])

            server = daemon.server
            os.kill(server.pid, signal.SIGKILL)
            await asyncio.to_thread(daemon.successor_of, server)

        async with asyncio.timeout(30):
            await listening

    assert numbers == list(range(1, len(numbers) + 1))
    assert all(
        found == [JobState.STARTING, JobState.RUNNING, JobState.FINISHED]
        for found in states.values()
    )
