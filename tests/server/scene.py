"""A server over a manager whose jobs the test commands, and two clients."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from teleworkerd.config import Config
from teleworkerd.counters import Counters
from teleworkerd.jobs.manager import JobManager
from teleworkerd.keeper.messages import Welcome
from teleworkerd.protocol.messages import InterleaveRequest, OutputRequest, RunRequest
from teleworkerd.protocol.responses import (
    InterleaveEnd,
    InterleaveResponse,
    OutputChunk,
    OutputEnd,
    OutputGap,
    OutputResponse,
    RunResponse,
)
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.server.access import Access
from teleworkerd.server.handlers import Service
from teleworkerd.server.trail import Trail
from teleworkerd.settings import OutputConfig
from teleworkerd.store import JobStore
from tests.e2e.pki import Certificates
from tests.fakes import TRUE, FakeExecutor, config_in
from tests.output.written import Runs, joined
from tests.server.peers import Client, Peers, Server, serving


CREDIT: Final = 1 << 20
WELCOME: Final = Welcome(1, 0, Config(), "none", {"mem": ""}, ())


@dataclass
class Scene:
    """A server with a client of alice, and one of bob."""

    executor: FakeExecutor
    manager: JobManager
    server: Server
    alice: Client
    bob: Client
    service: Service

    async def run(self, spec: JobSpec = TRUE, *, request: str = "r") -> str:
        """Let alice start a job; return its id."""
        response = await self.alice.ask(RunRequest(0, request, spec), RunResponse)
        return response.job

    async def read(self, request: OutputRequest) -> tuple[bytes, OutputEnd]:
        """Let alice read to the end of what she asked for."""
        opened = await self.alice.ask(request, OutputResponse)
        assert (opened.id, opened.offset) == (request.id, request.offset)
        return await self.rest(request)

    async def rest(self, request: OutputRequest) -> tuple[bytes, OutputEnd]:
        """Return what is still to come of *request*."""
        data = b""

        while not isinstance(message := await self.alice.receive(), OutputEnd):
            assert isinstance(message, OutputChunk)
            data += message.data

        return data, message

    async def runs(self, request: InterleaveRequest) -> tuple[Runs, InterleaveEnd]:
        """Let alice read both streams to the end of what she asked for."""
        await self.alice.ask(request, InterleaveResponse)
        return await self.rest_of_runs()

    async def rest_of_runs(self) -> tuple[Runs, InterleaveEnd]:
        """Return what is still to come of both streams."""
        found: Runs = []

        while not isinstance(message := await self.alice.receive(), InterleaveEnd):
            assert isinstance(message, OutputChunk | OutputGap)
            assert message.stream is not None

            if isinstance(message, OutputChunk):
                found.append((message.stream, message.data))
            else:
                found.append((message.stream, message.stop - message.offset))

        return joined(found), message


@asynccontextmanager
async def scene(
    certs: Certificates, path: Path, *, output: OutputConfig | None = None
) -> AsyncIterator[Scene]:
    """Set up a `Scene` with its state below *path*."""
    config = config_in(path)
    config = replace(config, output=output or config.output)
    executor = FakeExecutor(config.jobs_dir)
    store = await JobStore(config.database).open()

    try:
        counters = Counters()
        manager = JobManager(
            executor=executor, store=store, config=config, counters=counters
        )
        await manager.load()
        trail = Trail()
        access = Access(config.access, manager, trail)
        service = Service(manager, access, trail, WELCOME, lambda: 2, counters)

        async with (
            serving(certs, config, service=service) as server,
            Peers() as peers,
        ):
            alice = await peers.connect(server, certs)
            bob = await peers.connect(server, certs, "bob")
            yield Scene(executor, manager, server, alice, bob, service)

        manager.close()
    finally:
        await store.close()
