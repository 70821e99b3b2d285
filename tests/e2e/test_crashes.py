"""The server dies and hangs, again and again: no byte and no exit code is lost."""

import asyncio
import hashlib
import os
import random
import re
import signal
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, ExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

import twctl
from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import JobState, Stream
from tests.e2e.commandline import Completed, Twctl
from tests.e2e.daemon import Daemon, Gate, StartDaemon
from tests.e2e.waiting import wait_for


pytestmark = pytest.mark.slow

NOTICE: Final = re.compile(rb"twctl: [^\n]*; connecting again\n")

# Writes numbered lines to both streams until the gate is open, then tells in a file
# what it wrote, and ends with a code of its own.
WRITER: Final = """\
import hashlib, os, sys, time

number, gate, told, pause = int(sys.argv[1]), *sys.argv[2:4], float(sys.argv[4])
digests = [hashlib.sha256(), hashlib.sha256()]
line = 0
is_last = False

while not is_last:
    is_last = os.path.exists(gate)

    for fd, digest in enumerate(digests, 1):
        data = b"".join(b"%d: %d\\n" % (number, line + at) for at in range(100 * fd))
        digest.update(data)
        assert os.write(fd, data) == len(data)
        line += 100 * fd

    time.sleep(pause)

with open(told, "w") as file:
    file.write(" ".join(digest.hexdigest() for digest in digests))

sys.exit(number + 40)
"""


@dataclass(frozen=True, slots=True)
class Copy:
    """What a follower has at the end: the SHA-256 of both streams, the exit code."""

    stdout: str
    stderr: str
    exit_code: int | None


@dataclass(slots=True)
class Writers:
    """Jobs that write until their gate is opened."""

    daemon: Daemon
    python: str
    gate: Gate
    pause: float = 0.05

    def command(self, number: int) -> list[str]:
        """Return the command of one of them."""
        told, pause = str(self._told(number)), str(self.pause)
        program = [self.python, "-IS", "-c", WRITER]
        return [*program, str(number), str(self.gate.path), told, pause]

    def truth(self, number: int) -> Copy:
        """Return what it says that it wrote."""
        stdout, stderr = self._told(number).read_text().split()
        return Copy(stdout, stderr, number + 40)

    def _told(self, number: int) -> Path:
        return self.gate.path.with_name(f"told-{number}")


@dataclass(slots=True)
class Follower:
    """One who reads a job by the library from the first byte to its end."""

    job: twctl.RemoteJob
    sizes: dict[Stream, int] = field(default_factory=lambda: dict.fromkeys(Stream, 0))

    async def both(self) -> Copy:
        """Read both streams, as they were written."""
        digests = {stream: hashlib.sha256() for stream in Stream}

        async with aclosing(self.job.interleaved()) as chunks:
            async for chunk in chunks:
                assert chunk.offset == self.sizes[chunk.stream]
                self.sizes[chunk.stream] = chunk.stop
                digests[chunk.stream].update(chunk.data)

        status = await self.job.wait()
        assert status.state is JobState.FINISHED
        stdout, stderr = (digest.hexdigest() for digest in digests.values())
        told = Copy(stdout, stderr, status.exit_code)
        assert told == copy_of(status)
        return told

    async def stdout(self) -> str:
        """Read stdout; return its SHA-256."""
        digest = hashlib.sha256()

        async with aclosing(self.job.output()) as chunks:
            async for chunk in chunks:
                assert chunk.offset == self.sizes[Stream.STDOUT]
                self.sizes[Stream.STDOUT] = chunk.stop
                digest.update(chunk.data)

        return digest.hexdigest()


def copy_of(status: JobStatus) -> Copy:
    """Return what the server says of a job."""
    stdout, stderr = status.stdout.sha256, status.stderr.sha256
    assert stdout is not None
    assert stderr is not None
    return Copy(stdout.hex(), stderr.hex(), status.exit_code)


def copy_by(done: Completed) -> Copy:
    """Return what `run -f` copied; how the connection was is not the job's."""
    stderr = NOTICE.sub(b"", done.stderr.encode())
    return Copy(
        hashlib.sha256(done.stdout).hexdigest(),
        hashlib.sha256(stderr).hexdigest(),
        done.code,
    )


@pytest.fixture
def writers(start_daemon: StartDaemon, python: str) -> Writers:
    """Jobs of a daemon of their own."""
    daemon = start_daemon()
    return Writers(daemon, python, daemon.gate())


async def connect(stack: AsyncExitStack, daemon: Daemon) -> twctl.Client:
    """Connect as alice."""
    alice = daemon.certs.of("alice")
    client = twctl.connect(
        daemon.address, ca=daemon.certs.ca, cert=alice.cert, key=alice.key
    )
    return await stack.enter_async_context(client)


async def copies(
    writers: Writers, numbers: Sequence[int], disturb: Callable[[], Awaitable[None]]
) -> dict[int, Copy]:
    """Run and follow jobs by the library, each on a connection of its own.

    All of them write, and are read, while it is disturbed.
    """
    async with AsyncExitStack() as stack:
        followers = {}

        for number in numbers:
            client = await connect(stack, writers.daemon)
            followers[number] = Follower(await client.run(writers.command(number)))

        async with asyncio.TaskGroup() as group:
            tasks = {
                number: group.create_task(follower.both())
                for number, follower in followers.items()
            }
            await all_grow(followers.values())
            await disturb()
            await all_grow(followers.values())
            writers.gate.open()

        return {number: task.result() for number, task in tasks.items()}


async def all_grow(followers: Iterable[Follower], *, within: float = 20.0) -> None:
    """Wait until each follower has got something new."""
    before = [(follower, dict(follower.sizes)) for follower in followers]

    def look() -> bool:
        return all(follower.sizes != sizes for follower, sizes in before)

    await asyncio.to_thread(wait_for, look, what="news for all", within=within)


def check(writers: Writers, disturb: Callable[[], Awaitable[None]]) -> None:
    """Disturb twenty jobs with twenty followers, four of which are `twctl`."""
    alice = Twctl(writers.daemon, writers.daemon.certs.of("alice"))

    with ExitStack() as stack:
        terminals = {
            number: stack.enter_context(
                alice.start("run", "-f", "--", *writers.command(number))
            )
            for number in range(4)
        }

        for terminal in terminals.values():
            terminal.until_lines(1)

        found = asyncio.run(copies(writers, range(4, 20), disturb))
        found |= {
            number: copy_by(terminal.finish()) for number, terminal in terminals.items()
        }

    assert found == {number: writers.truth(number) for number in range(20)}


@pytest.mark.timeout(150)
def test_server_killed_fifty_times(writers: Writers) -> None:
    """However often and whenever it is killed: all is exact, each reader ends well."""
    dice = random.Random(50)
    daemon = writers.daemon

    async def kill() -> None:
        server = daemon.server

        for _ in range(50):
            os.kill(server.pid, signal.SIGKILL)
            server = await asyncio.to_thread(daemon.successor_of, server)
            await asyncio.sleep(dice.uniform(0, 0.8))  # also before it is ready

    check(writers, kill)

    assert len(daemon.log_lines("starting another")) == 50


@pytest.mark.timeout(90)
def test_server_stopped_for_a_while(writers: Writers) -> None:
    """A server that hangs for five seconds costs nothing but those."""

    async def stop() -> None:
        server = writers.daemon.server
        os.kill(server.pid, signal.SIGSTOP)

        try:
            await asyncio.sleep(5)
        finally:
            os.kill(server.pid, signal.SIGCONT)

    check(writers, stop)

    assert writers.daemon.log_lines("starting another") == []


@pytest.mark.timeout(120)
def test_restart_under_many_followers(writers: Writers) -> None:
    """Five hundred readers on fifty connections go on at the next server."""
    writers.pause = 0.3
    daemon = writers.daemon

    async def run() -> tuple[list[str], list[str]]:
        async with AsyncExitStack() as stack:
            clients = [await connect(stack, daemon) for _ in range(50)]
            jobs = [await clients[0].run(writers.command(at)) for at in range(10)]
            followers = [
                Follower(client.job(job.id)) for client in clients for job in jobs
            ]

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(each.stdout()) for each in followers]
                await all_grow(followers)
                server = daemon.server
                os.kill(server.pid, signal.SIGKILL)
                await asyncio.to_thread(daemon.successor_of, server)
                await all_grow(followers)
                writers.gate.open()

            for job in jobs:
                await job.wait()

            return [task.result() for task in tasks], [job.id for job in jobs]

    digests, jobs = asyncio.run(run())

    expected = [writers.truth(number).stdout for number in range(len(jobs))]
    assert digests == expected * 50
