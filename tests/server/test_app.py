"""The server process as a whole, with the test in the place of its keeper."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from teleworkerd import handover
from teleworkerd.certfiles import CertificateFileError
from teleworkerd.config import Config
from teleworkerd.execution import Postscript
from teleworkerd.executors.keeper_link import KeeperGone
from teleworkerd.keeper.channel import Channel
from teleworkerd.keeper.messages import (
    JobExited,
    JobGone,
    JobLaunched,
    JobSealed,
    KeptJob,
    KeptJobs,
    Leave,
    OutputGrown,
    Probe,
    Reload,
    Shutdown,
    Welcome,
)
from teleworkerd.keeper.orders import (
    FROM_SERVER,
    Alive,
    Launch,
    Ready,
    Reloaded,
    RemoveJob,
    SealJob,
    StopJob,
)
from teleworkerd.protocol.errors import Unavailable
from teleworkerd.protocol.messages import ListRequest, Message, RunRequest, WaitRequest
from teleworkerd.protocol.responses import (
    Goaway,
    ListResponse,
    RunResponse,
    StatusResponse,
)
from teleworkerd.protocol.types import JobState, Reason, Stream
from teleworkerd.server import app
from teleworkerd.settings import DaemonConfig, RetentionConfig, ServerConfig
from teleworkerd.store import JobStore
from tests.e2e.pki import Certificates
from tests.fakes import EMPTY, EXITED, LAUNCHED, TRUE, UNSEALED, record_of
from tests.output.written import Written
from tests.server.peers import DEADLINE, Client, client_context


M = TypeVar("M", bound=Message)


class Keeper:
    """The other end of a server's channel."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.closed = asyncio.Event()
        self.giving, self.taking = handover.pair()
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self.channel = Channel(
            FROM_SERVER, received=self._messages.put_nowait, closed=self.closed.set
        )

    async def expect(self, kind: type[M]) -> M:
        """Return the next message, which must be of *kind*."""
        async with asyncio.timeout(DEADLINE):
            message = await self._messages.get()

        assert isinstance(message, kind), message
        return message

    def is_silent(self) -> bool:
        """Whether nothing has come that nobody expected."""
        return self._messages.empty()

    def reload(self, config: Config) -> None:
        """Say what a keeper says of a new configuration."""
        handover.give(self.giving, config.certs)
        self.channel.send(Reload(config))

    def welcome(self, *kept: KeptJob) -> None:
        """Say what a keeper says first."""
        handover.give(self.giving, self.config.certs)
        self.channel.send(Welcome(1, 0, self.config, "none", {}, kept))


@pytest.fixture(autouse=True)
def _keep_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the log to pytest."""
    monkeypatch.setattr(app, "set_up", lambda **_: None)


@asynccontextmanager
async def served(
    certs: Path, state: Path, retention: RetentionConfig | None = None
) -> AsyncIterator[tuple[Keeper, asyncio.Task[None], int]]:
    """Run a server; yields its keeper, its task and its port."""
    daemon = DaemonConfig(state_dir=str(state), certs=str(certs))
    config = Config(daemon, retention=retention or RetentionConfig())
    config.jobs_dir.mkdir(exist_ok=True)
    ours, theirs = socket.socketpair()
    keeper = Keeper(config)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        await keeper.channel.open(ours)
        task = asyncio.create_task(app.serve(theirs, keeper.taking, [listening]))

        try:
            yield keeper, task, listening.getsockname()[1]
        finally:
            keeper.channel.close()
            await asyncio.wait([task], timeout=DEADLINE)
            assert task.done()
            await keeper.closed.wait()
            theirs.close()
            keeper.giving.close()
            keeper.taking.close()


@asynccontextmanager
async def connected(port: int, certs: Certificates) -> AsyncIterator[Client]:
    """A client of alice, after the hellos."""
    context = client_context(certs, certs.of("alice"))
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="localhost"
    )
    client = Client(reader, writer)

    try:
        await client.receive()
        yield client
    finally:
        await client.leave()


async def test_shutdown(certs: Certificates, tmp_path: Path) -> None:
    """A shutdown ends the jobs, says goodbye to the clients, and then the server."""
    async with served(certs.directory, tmp_path) as (keeper, task, port):
        keeper.welcome()
        await keeper.expect(Ready)

        async with connected(port, certs) as client:
            client.flush(RunRequest(1, "r", TRUE))
            launch = await keeper.expect(Launch)
            keeper.channel.send(JobLaunched(launch.job.id, LAUNCHED))
            await client.expect(RunResponse)
            keeper.channel.send(Shutdown())
            stop = await keeper.expect(StopJob)
            assert not task.done()
            keeper.channel.send(JobExited(launch.job.id, replace(EXITED, stopped=True)))

            await client.expect(Goaway)
            assert await client.is_closed()

        async with asyncio.timeout(DEADLINE):
            await task

    assert (stop.job, stop.reason) == (launch.job.id, Reason.SHUTDOWN)


async def test_leave(certs: Certificates, tmp_path: Path) -> None:
    """A server that leaves says goodbye at once, and ends no job."""
    async with served(certs.directory, tmp_path) as (keeper, task, port):
        keeper.welcome()
        await keeper.expect(Ready)

        async with connected(port, certs) as client:
            client.flush(RunRequest(1, "r", TRUE))
            launch = await keeper.expect(Launch)
            keeper.channel.send(JobLaunched(launch.job.id, LAUNCHED))
            await client.expect(RunResponse)
            keeper.channel.send(Leave())

            assert "jobs go on" in (await client.expect(Goaway)).message
            assert await client.is_closed()

        async with asyncio.timeout(DEADLINE):
            await task

    assert keeper.is_silent()


async def test_reload(certs: Certificates, tmp_path: Path) -> None:
    """Settings and certificates are used together, or neither of them is."""
    async with served(certs.directory, tmp_path) as (keeper, _, port):
        keeper.welcome()
        await keeper.expect(Ready)
        full = replace(keeper.config, server=ServerConfig(connections=1))
        wrong = replace(full, daemon=replace(full.daemon, certs=str(tmp_path)))
        keeper.reload(wrong)
        refused = await keeper.expect(Reloaded)

        async with AsyncExitStack() as stack:
            for _ in range(2):
                await stack.enter_async_context(connected(port, certs))

            keeper.reload(full)
            taken = await keeper.expect(Reloaded)

            with pytest.raises(Unavailable, match="has 1 connections"):
                await stack.enter_async_context(connected(port, certs))

    assert "does not exist" in (refused.error or "")
    assert taken == Reloaded()


async def test_probe(certs: Certificates, tmp_path: Path) -> None:
    """A server whose loop turns says so."""
    async with served(certs.directory, tmp_path) as (keeper, _, _):
        keeper.welcome()
        await keeper.expect(Ready)
        keeper.channel.send(Probe(3))

        assert await keeper.expect(Alive) == Alive(3)


async def test_last_answers(certs: Certificates, tmp_path: Path) -> None:
    """Who waits for a job that the shutdown ends is told before the goodbye."""
    async with served(certs.directory, tmp_path) as (keeper, _, port):
        keeper.welcome()
        await keeper.expect(Ready)

        async with connected(port, certs) as client:
            client.flush(RunRequest(1, "r", TRUE))
            launch = await keeper.expect(Launch)
            keeper.channel.send(JobLaunched(launch.job.id, LAUNCHED))
            await client.expect(RunResponse)

            for number in range(2, 30):
                client.flush(WaitRequest(number, launch.job.id))

            keeper.channel.send(Shutdown())
            await keeper.expect(StopJob)
            keeper.channel.send(JobExited(launch.job.id, replace(EXITED, stopped=True)))

            for _ in range(2, 30):
                await client.expect(StatusResponse)

            await client.expect(Goaway)


async def test_keeper_that_dies_during_the_shutdown(
    certs: Certificates, tmp_path: Path
) -> None:
    """A server does not wait for jobs whose end nobody will tell."""
    async with served(certs.directory, tmp_path) as (keeper, task, port):
        keeper.welcome()
        await keeper.expect(Ready)

        async with connected(port, certs) as client:
            client.flush(RunRequest(1, "r", TRUE))
            launch = await keeper.expect(Launch)
            keeper.channel.send(JobLaunched(launch.job.id, LAUNCHED))
            await client.expect(RunResponse)
            keeper.channel.send(Shutdown())
            await keeper.expect(StopJob)
            keeper.channel.close()

            await client.expect(Goaway)

        async with asyncio.timeout(DEADLINE):
            await task


async def test_keeper_that_dies(certs: Certificates, tmp_path: Path) -> None:
    """Without a keeper there is no server."""
    async with served(certs.directory, tmp_path) as (keeper, task, port):
        keeper.welcome()
        await keeper.expect(Ready)

        async with connected(port, certs) as client:
            keeper.channel.close()
            await client.expect(Goaway)

        async with asyncio.timeout(DEADLINE):
            await task


async def test_jobs_in_parts(certs: Certificates, tmp_path: Path) -> None:
    """Jobs that an earlier server started are known from every part of the list."""
    async with served(certs.directory, tmp_path) as (keeper, first, port):
        keeper.welcome()
        await keeper.expect(Ready)
        kept = []

        async with connected(port, certs) as client:
            for n in range(3):
                client.flush(RunRequest(n, f"r{n}", TRUE))
                launch = await keeper.expect(Launch)
                keeper.channel.send(JobLaunched(launch.job.id, LAUNCHED))
                await client.expect(RunResponse)
                kept.append(KeptJob(launch.job.id, LAUNCHED, 0, 0))

        keeper.channel.close()
        await first

    async with served(certs.directory, tmp_path) as (keeper, _, port):
        keeper.channel.send(KeptJobs((kept[0],)))
        keeper.channel.send(KeptJobs((kept[1],)))
        keeper.welcome(kept[2])
        await keeper.expect(Ready)

        async with connected(port, certs) as client:
            page = await client.ask(ListRequest(1), ListResponse)

    assert [job.state for job in page.jobs] == [JobState.RUNNING] * 3


async def test_digests_are_sealed(certs: Certificates, tmp_path: Path) -> None:
    """What the server finds out of a job's bytes is kept by the keeper, for good."""
    async with served(certs.directory, tmp_path) as (keeper, _, port):
        keeper.welcome()
        await keeper.expect(Ready)

        async with connected(port, certs) as client:
            client.flush(RunRequest(1, "r", TRUE))
            job = (await keeper.expect(Launch)).job.id
            keeper.channel.send(JobLaunched(job, LAUNCHED))
            await client.expect(RunResponse)
            written = Written(tmp_path / "jobs" / job)
            written.write(b"all")
            keeper.channel.send(OutputGrown(job, 3, 0))
            keeper.channel.send(JobExited(job, replace(UNSEALED, stdout=3)))
            seal = await keeper.expect(SealJob)
            keeper.channel.send(JobSealed(job))
            response = await client.ask(WaitRequest(2, job), StatusResponse)

    sha256 = written.sha256(Stream.STDOUT)
    assert seal == SealJob(job, Postscript(sha256.hex(), EMPTY))
    assert response.status.stdout.sha256 == sha256


async def test_old_jobs_go(certs: Certificates, tmp_path: Path) -> None:
    """What is kept no longer goes at the start, and each removal is the keeper's."""
    store = await JobStore(tmp_path / "jobs.sqlite").open()

    for number in range(3):
        record = record_of(
            f"1234567{number}-job",
            state=JobState.FINISHED,
            started_at=1,
            ended_at=number + 1,
            created_at=number,
        )
        Written(tmp_path / "jobs" / record.status.id)
        await store.save(record)

    await store.close()
    retention = RetentionConfig(age=0, count=1)

    async with served(certs.directory, tmp_path, retention) as (keeper, _, port):
        keeper.welcome()
        await keeper.expect(Ready)

        for number in range(2):
            job = (await keeper.expect(RemoveJob)).job
            assert job == f"1234567{number}-job"
            keeper.channel.send(JobGone(job))

        async with connected(port, certs) as client:
            page = await client.ask(ListRequest(1), ListResponse)

    assert [job.id for job in page.jobs] == ["12345672-job"]


async def test_end_while_jobs_go(certs: Certificates, tmp_path: Path) -> None:
    """A removal that the keeper never answers does not hold up the end."""
    store = await JobStore(tmp_path / "jobs.sqlite").open()
    record = record_of(state=JobState.FINISHED, started_at=1, ended_at=1)
    Written(tmp_path / "jobs" / record.status.id)
    await store.save(record)
    await store.close()

    async with served(certs.directory, tmp_path) as (keeper, task, _):
        keeper.welcome()
        await keeper.expect(Ready)
        await keeper.expect(RemoveJob)
        keeper.channel.send(Shutdown())

        async with asyncio.timeout(DEADLINE):
            await task


async def test_keeper_that_says_nothing(certs: Certificates, tmp_path: Path) -> None:
    """A keeper that ends before its welcome is told as that."""
    async with served(certs.directory, tmp_path) as (keeper, task, _):
        keeper.channel.close()

        with pytest.raises(KeeperGone):
            await task


async def test_bad_certificates(tmp_path: Path) -> None:
    """What keeps a server from starting is raised, and nobody is told of readiness."""
    async with served(tmp_path, tmp_path) as (keeper, task, _):
        keeper.welcome()

        with pytest.raises(CertificateFileError, match="does not exist"):
            await task


async def test_server_that_ends(certs: Certificates, tmp_path: Path) -> None:
    """A shutdown before the server was ready is not lost."""
    async with served(certs.directory, tmp_path) as (keeper, task, _):
        keeper.welcome()
        keeper.channel.send(Shutdown())

        async with asyncio.timeout(DEADLINE):
            await task
