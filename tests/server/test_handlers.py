"""What each request does, against a manager whose jobs the test commands."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from teleworkerd.config import OutputConfig
from teleworkerd.execution import LaunchError
from teleworkerd.jobs.manager import JobManager
from teleworkerd.protocol.messages import (
    Cancel,
    Credit,
    DoneResponse,
    ErrorResponse,
    InfoRequest,
    InfoResponse,
    KillRequest,
    ListRequest,
    ListResponse,
    Message,
    OutputChunk,
    OutputEnd,
    OutputRequest,
    OutputResponse,
    Request,
    RunRequest,
    RunResponse,
    StatusRequest,
    StatusResponse,
    StopRequest,
    WaitRequest,
)
from teleworkerd.protocol.types import (
    JobSpec,
    JobState,
    LaunchFailure,
    LaunchStage,
    Reason,
    Stream,
)
from teleworkerd.server.handlers import Service
from teleworkerd.store import JobStore
from tests.e2e.pki import Certificates
from tests.fakes import TRUE, FakeExecutor, config_in
from tests.server.peers import Client, Peers, Server, error_of, serving, until


CREDIT: Final = 1 << 20


@dataclass
class Scene:
    """A server with a client of alice, and one of bob."""

    executor: FakeExecutor
    manager: JobManager
    server: Server
    alice: Client
    bob: Client

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
        manager = JobManager(executor=executor, store=store, config=config)
        await manager.load()
        service = Service(manager, "none", {"mem": ""}, lambda: 2)

        async with (
            serving(certs, config, service=service) as server,
            Peers() as peers,
        ):
            alice = await peers.connect(server, certs)
            bob = await peers.connect(server, certs, "bob")
            yield Scene(executor, manager, server, alice, bob)
    finally:
        await store.close()


async def test_run(certs: Certificates, tmp_path: Path) -> None:
    """A job belongs to the name of the certificate."""
    async with scene(certs, tmp_path) as play:
        response = await play.alice.ask(RunRequest(1, "r", TRUE), RunResponse)
        (identity,) = play.executor.started

    assert response.created
    assert (identity.id, identity.owner) == (response.job, "alice")


async def test_run_again(certs: Certificates, tmp_path: Path) -> None:
    """A request id that is repeated names the same job; another's is another's."""
    async with scene(certs, tmp_path) as play:
        first = await play.run()
        second = await play.alice.ask(RunRequest(1, "r", TRUE), RunResponse)
        other = await play.bob.ask(RunRequest(1, "r", TRUE), RunResponse)

    assert (second.job, second.created) == (first, False)
    assert other.job != first
    assert other.created


async def test_run_that_fails(certs: Certificates, tmp_path: Path) -> None:
    """Where a launch failed is told in the details."""
    failure = LaunchFailure(LaunchStage.WORKDIR, 13, "no way in")

    async with scene(certs, tmp_path) as play:
        play.executor.error = LaunchError(failure)
        error = await play.alice.ask(RunRequest(1, "r", TRUE), ErrorResponse)

    assert error_of(error) == (1, "launch_failed")
    assert (error.details["stage"], error.details["errno"]) == ("cwd", 13)


async def test_cancelled_run(certs: Certificates, tmp_path: Path) -> None:
    """A run that is cancelled is answered; the job, once asked for, goes on."""
    async with scene(certs, tmp_path) as play:
        play.executor.gate.clear()
        play.alice.flush(RunRequest(1, "r", TRUE))
        await until(lambda: play.executor.started, what="the launch")
        play.alice.flush(Cancel(1))
        response = await play.alice.expect(ErrorResponse)
        play.executor.gate.set()
        again = await play.alice.ask(RunRequest(1, "r", TRUE), RunResponse)

    assert error_of(response) == (1, "cancelled")
    assert not again.created


async def test_status(certs: Certificates, tmp_path: Path) -> None:
    """One job in full."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        response = await play.alice.ask(StatusRequest(1, job), StatusResponse)

    assert response.status.id == job
    assert response.status.state is JobState.RUNNING
    assert response.status.command == (b"true",)


@pytest.mark.parametrize(
    "make",
    [
        lambda job: StatusRequest(1, job),
        lambda job: WaitRequest(1, job),
        lambda job: KillRequest(1, job),
        lambda job: StopRequest(1, job, 1.0),
        lambda job: OutputRequest(1, job, credit=CREDIT),
    ],
    ids=["status", "wait", "kill", "stop", "output"],
)
async def test_job_of_another(certs: Certificates, tmp_path: Path, make: Any) -> None:
    """Somebody else's job reads like one that does not exist."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        missing = "0" * len(job)
        real = await play.bob.ask(make(job), ErrorResponse)
        unreal = await play.bob.ask(make(missing), ErrorResponse)

        assert error_of(real) == error_of(unreal) == (1, "job_not_found")
        assert real.message.replace(job, missing) == unreal.message
        assert real.details == unreal.details
        assert play.executor.executions[job].calls == []


async def test_wait(certs: Certificates, tmp_path: Path) -> None:
    """A wait is answered when the job ends, and at once when it has."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        play.alice.flush(WaitRequest(1, job), InfoRequest(2))
        await play.alice.expect(InfoResponse)
        play.executor.exit(job)
        first = await play.alice.expect(StatusResponse)
        second = await play.alice.ask(WaitRequest(1, job), StatusResponse)

    assert first == second
    assert (first.status.state, first.status.exit_code) == (JobState.FINISHED, 3)


async def test_kill(certs: Certificates, tmp_path: Path) -> None:
    """A signal is passed on as it was asked for."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        response = await play.alice.ask(
            KillRequest(1, job, 15, tree=True), DoneResponse
        )
        calls = play.executor.executions[job].calls

    assert (response.job, response.already_ended) == (job, False)
    assert calls == [("signal", 15, True)]


async def test_stop(certs: Certificates, tmp_path: Path) -> None:
    """So is a stop, with its grace."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        await play.alice.ask(StopRequest(1, job, grace=2.5), DoneResponse)
        status = await play.alice.ask(StatusRequest(1, job), StatusResponse)

    assert play.executor.executions[job].calls == [("stop", 2.5, Reason.KILLED)]
    assert status.status.state is JobState.STOPPING


@pytest.mark.parametrize("kind", [KillRequest, StopRequest])
async def test_end_of_what_has_ended(
    certs: Certificates, tmp_path: Path, kind: type[Any]
) -> None:
    """To end a job that has ended is no error, and nothing is sent."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        play.executor.exit(job)
        response = await play.alice.ask(kind(1, job), DoneResponse)

    assert response.already_ended
    assert play.executor.executions[job].calls == []


async def test_list(certs: Certificates, tmp_path: Path) -> None:
    """Own jobs, newest first, page by page."""
    async with scene(certs, tmp_path) as play:
        jobs = [await play.run(request=f"r{n}") for n in range(5)]
        first = await play.alice.ask(ListRequest(1, limit=3), ListResponse)
        last = first.jobs[-1].id
        rest = await play.alice.ask(ListRequest(1, before=last), ListResponse)
        other = await play.bob.ask(ListRequest(1), ListResponse)

    assert [job.id for job in first.jobs] == jobs[:1:-1]
    assert [job.id for job in rest.jobs] == jobs[1::-1]
    assert (first.more, rest.more) == (True, False)
    assert other.jobs == ()


@pytest.mark.parametrize(
    ("count", "spec"),
    [
        (8, JobSpec((b"x" * 100_000,) * 3)),
        (24, JobSpec((b"true",), workdir=b"/" + b"w" * 100_000)),
        (5, JobSpec((b"true", *[b""] * 16_000))),
        (80, JobSpec((b"true",), labels={f"k{n}": "é" * 255 for n in range(64)})),
    ],
    ids=["command", "workdir", "arguments", "labels"],
)
async def test_list_of_big_jobs(
    certs: Certificates, tmp_path: Path, count: int, spec: JobSpec
) -> None:
    """However big the jobs are, each page fits a frame, and all of them come."""
    async with scene(certs, tmp_path) as play:
        jobs = {await play.run(spec, request=f"r{n}") for n in range(count)}
        found: list[str] = []
        before = None

        while True:
            page = await play.alice.ask(ListRequest(1, before=before), ListResponse)
            found += [job.id for job in page.jobs]

            if not page.more:
                break

            before = found[-1]

    assert len(found) == count
    assert set(found) == jobs


async def test_output(certs: Certificates, tmp_path: Path) -> None:
    """What there is of a stream, from any offset."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        data = bytes(range(256)) * 40
        play.executor.write(job, data)

        for offset in (0, 1, 5000, len(data)):
            request = OutputRequest(1, job, offset=offset, credit=CREDIT)
            got, end = await play.read(request)
            assert got == data[offset:]
            assert (end.offset, end.complete, end.status) == (len(data), False, None)


async def test_output_beyond_the_end(certs: Certificates, tmp_path: Path) -> None:
    """An offset that is not there yet is an error that says what is."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        play.executor.write(job, b"abc")
        error = await play.alice.ask(OutputRequest(1, job, offset=4), ErrorResponse)

    assert error_of(error) == (1, "offset_out_of_range")
    assert error.details == {"first": 0, "end": 3}


async def test_follow(certs: Certificates, tmp_path: Path) -> None:
    """A reader that follows gets what comes, and at the end the job's status."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        request = OutputRequest(1, job, Stream.STDERR, follow=True, credit=CREDIT)
        await play.alice.ask(request, OutputResponse)
        wanted = hashlib.sha256()

        for n in range(50):
            piece = bytes([n]) * (n * 100)
            wanted.update(piece)
            play.executor.write(job, piece, Stream.STDERR)

        play.executor.exit(job)
        data, end = await play.rest(request)

    assert hashlib.sha256(data).digest() == wanted.digest()
    assert end.complete
    assert end.status is not None
    assert end.status.exit_code == 3


async def test_credit(certs: Certificates, tmp_path: Path) -> None:
    """No more is sent than was asked for; other requests are not held up."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        play.executor.write(job, bytes(5000))
        request = OutputRequest(1, job, credit=1500)
        await play.alice.ask(request, OutputResponse)
        first = await play.alice.expect(OutputChunk)
        second = await play.alice.expect(OutputChunk)
        play.alice.flush(InfoRequest(2))
        await play.alice.expect(InfoResponse)
        play.alice.flush(Credit(1, CREDIT))
        data, _ = await play.rest(request)

    assert len(first.data) + len(second.data) == 1500
    assert len(data) == 3500


@pytest.mark.parametrize("credit", [0, 10, CREDIT], ids=["none", "some", "plenty"])
async def test_cancelled_output(
    certs: Certificates, tmp_path: Path, credit: int
) -> None:
    """A reader that cancels gets an end, not an error, at the offset it has."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        play.executor.write(job, bytes(3000))
        request = OutputRequest(1, job, follow=True, credit=credit)
        await play.alice.ask(request, OutputResponse)
        got = 0

        while got < min(credit, 3000):
            got += len((await play.alice.expect(OutputChunk)).data)

        play.alice.flush(Cancel(1))
        data, end = await play.rest(request)
        again = await play.read(OutputRequest(1, job, offset=2999, credit=CREDIT))

    assert (data, end.offset, end.complete) == (b"", got, False)
    assert again[0] == b"\0"


async def test_output_and_cancel_in_one_breath(
    certs: Certificates, tmp_path: Path
) -> None:
    """A cancel that comes with its request is answered once."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        request = OutputRequest(1, job, follow=True, credit=CREDIT)
        play.alice.flush(request, Cancel(1), InfoRequest(2))
        finals: list[Message] = []

        while len(finals) < 2:
            message = await play.alice.receive()

            if not isinstance(message, (OutputResponse, OutputChunk)):
                finals.append(message)

    assert {type(message) for message in finals} in (
        {OutputEnd, InfoResponse},
        {ErrorResponse, InfoResponse},
    )


async def test_slow_reader(certs: Certificates, tmp_path: Path) -> None:
    """Many subscriptions of one client that does not read fill one buffer, not many."""
    async with scene(certs, tmp_path, output=OutputConfig()) as play:
        job = await play.run()
        play.executor.write(job, bytes(4 << 20))
        limit = play.manager._config.output.send_buffer
        transport = play.alice.writer.transport
        transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads, too
        requests: list[Request] = [
            OutputRequest(n, job, credit=4 << 20) for n in range(100)
        ]
        play.alice.flush(*requests)
        (session,) = (
            each for each in play.server.sessions if each.principal.name == "alice"
        )
        await until(lambda: not session._writable.is_set(), what="a full buffer")
        most = session._transport.get_write_buffer_size()
        transport.resume_reading()  # type: ignore[attr-defined]  # as above
        got = dict.fromkeys(range(100), 0)
        ended = 0

        while ended < 3:
            message = await play.alice.receive()
            most = max(most, session._transport.get_write_buffer_size())

            if isinstance(message, OutputChunk):
                assert message.offset == got[message.id]
                got[message.id] += len(message.data)
            elif isinstance(message, OutputEnd):
                ended += 1

    # Beyond the mark there may be what was being sent, and TLS's own.
    assert most < 2 * limit


async def test_lost_reader(certs: Certificates, tmp_path: Path) -> None:
    """A reader whose connection is gone is no reader any more."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        await play.alice.ask(
            OutputRequest(1, job, follow=True, credit=CREDIT), OutputResponse
        )
        fanout = play.manager.get(job, owner="alice")._output[Stream.STDOUT]
        assert fanout.readers == 1
        await play.alice.leave()

        await until(lambda: fanout.readers == 0, what="the end of the subscription")


async def test_spool_that_is_gone(certs: Certificates, tmp_path: Path) -> None:
    """Output that cannot be read any more is an error, not a silence."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        play.executor.write(job, bytes(5000))
        (config_in(tmp_path).jobs_dir / job / "stdout").unlink()
        request = OutputRequest(1, job, credit=CREDIT)
        await play.alice.ask(request, OutputResponse)

        assert error_of(await play.alice.expect(ErrorResponse)) == (1, "internal")


async def test_info(certs: Certificates, tmp_path: Path) -> None:
    """The server tells about itself."""
    async with scene(certs, tmp_path) as play:
        await play.run()
        response = await play.alice.ask(InfoRequest(1), InfoResponse)

    assert (response.name, response.connections, response.cgroups) == (
        "alice",
        2,
        "none",
    )
    assert response.jobs["running"] == 1
