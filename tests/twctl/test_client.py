"""The library: jobs that outlive connections."""

import asyncio
import itertools
import pickle
from collections.abc import Awaitable, Callable

import pytest

import twctl
from teleworkerd.protocol.errors import Cancelled, Unavailable
from teleworkerd.protocol.messages import (
    KillRequest,
    ListRequest,
    OutputRequest,
    RunRequest,
    StatusRequest,
    StopRequest,
    WaitRequest,
)
from teleworkerd.protocol.types import JobState, Stream
from tests.twctl.fake import FakeServer
from tests.twctl.fake_output import JOB_ID, FakeJob, make_status
from twctl.client import Client
from twctl.profile import Profile


pytestmark = pytest.mark.timeout(30)

TEXT = bytes(range(256)) * 2
HELLO = 200  # bytes that are more than a hello and what opens a stream


async def read(
    client: Client, *, offset: int = 0, follow: bool = True
) -> list[twctl.Chunk]:
    """Return the chunks of the job's stdout."""
    output = client.job(JOB_ID).output(offset=offset, follow=follow)
    return [chunk async for chunk in output]


async def test_run(server: FakeServer, profile: Profile) -> None:
    """A job is started with all that was asked for, text as the file system has it."""
    async with Client(profile) as client:
        job = await client.run(
            ["echo", "\udcff", b"\xfe"],
            mem=64,
            cpu=5,
            io=6,
            env={"A": "ä"},
            workdir="/tmp",
            name="n",
            labels={"k": "v"},
            timeout=1.5,
            request_id="mine",
        )

    assert job.id == JOB_ID
    spec = server.started["mine"]
    assert spec.command == (b"echo", b"\xff", b"\xfe")
    assert spec.limits == twctl.Limits(64, 5, 6)
    assert spec.env == {b"A": "ä".encode()}
    assert (spec.workdir, spec.name, spec.labels) == (b"/tmp", "n", {"k": "v"})
    assert spec.timeout == 1.5


async def test_command_in_one_string(profile: Profile) -> None:
    """A string is not split: there is no shell."""
    async with Client(profile) as client:
        with pytest.raises(TypeError, match="list of its arguments"):
            await client.run("ls -l")


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda client: client.list(states="running"), "states is one string"),
        (lambda client: anext(client.top("build")), "jobs is one string"),
    ],
)
async def test_one_string_for_several(
    profile: Profile, ask: Callable[[Client], Awaitable[object]], words: str
) -> None:
    """A string is not taken letter by letter."""
    async with Client(profile) as client:
        with pytest.raises(TypeError, match=words):
            await ask(client)


async def test_empty_request_id(server: FakeServer, profile: Profile) -> None:
    """It is no id, and not as good as none: a repetition would start another job."""
    async with Client(profile) as client:
        with pytest.raises(twctl.InvalidRequest, match="request_id is empty"):
            await client.run(["true"], request_id="")

    assert not server.started


async def test_entered_again(server: FakeServer, profile: Profile) -> None:
    """A client has one connection, and makes another one when that is closed."""
    client = Client(profile)

    async with client:
        with pytest.raises(RuntimeError, match="is connected already"):
            await client.__aenter__()

        await client.info()

    async with client:
        await client.info()

    assert server.connections == 2


@pytest.mark.parametrize(
    "error",
    [
        twctl.InputEnded(JOB_ID, twctl.InputEndReason.CLOSED),
        twctl.OutputDropped(twctl.Gap(Stream.STDOUT, 0, 5)),
        twctl.JobNotFound("there is no job x", {"job": "x"}),
    ],
)
def test_errors_of_another_process(error: twctl.TeleworkerError) -> None:
    """An error comes whole out of a process of a pool."""
    copy = pickle.loads(pickle.dumps(error))

    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


async def test_lost_answer_of_a_start(server: FakeServer, profile: Profile) -> None:
    """A start whose response is lost is asked for again under the same id."""
    server.cuts = [130]  # after the hello, before the response

    async with Client(profile) as client:
        assert (await client.run(["true"])).id == JOB_ID

    asked = [r.request_id for r in server.asked if isinstance(r, RunRequest)]
    assert len(asked) >= 1
    assert len(set(asked)) == 1
    assert len(server.started) == 1


@pytest.mark.slow
@pytest.mark.parametrize("step", range(0, 48, 12))
async def test_cut_anywhere(server: FakeServer, profile: Profile, step: int) -> None:
    """Wherever the connection is cut, every byte arrives once and in order."""
    server.jobs[JOB_ID] = FakeJob(output={Stream.STDOUT: TEXT})
    server.chunk_size = 100
    notices: list[str] = []

    async with Client(profile, notice=notices.append) as client:
        for cut in range(120 + step, 900, 49):
            await client._link._session.close()  # type: ignore[union-attr]
            server.cuts = [cut]
            chunks = await read(client)

            assert b"".join(chunk.data for chunk in chunks) == TEXT
            offsets = [chunk.offset for chunk in chunks]
            assert (
                offsets == [0, *itertools.accumulate(len(c.data) for c in chunks)][:-1]
            )

    assert server.connections > 16
    assert notices


async def test_cut_again_and_again(server: FakeServer, profile: Profile) -> None:
    """Progress between the cuts is enough to get to the end."""
    data = TEXT * 20
    server.jobs[JOB_ID] = FakeJob(output={Stream.STDOUT: data})
    server.chunk_size = 600
    server.cuts = [HELLO + 1500] * 8

    async with Client(profile) as client:
        assert data == b"".join(chunk.data for chunk in await read(client))

    assert server.connections > 5


async def test_both_streams_over_an_outage(
    server: FakeServer, profile: Profile
) -> None:
    """Two readers of one client recover together, with one notice."""
    data = bytes(200_000)
    server.jobs[JOB_ID] = FakeJob(output={Stream.STDOUT: data, Stream.STDERR: data})
    server.cuts = [100_000]
    notices: list[str] = []

    async with Client(profile, notice=notices.append) as client:
        job = client.job(JOB_ID)
        sizes = await asyncio.gather(
            *(_size(job, stream) for stream in ("stdout", "stderr"))
        )

    assert sizes == [200_000, 200_000]
    assert server.connections == 2
    assert len(notices) == 1
    assert "connecting again" in notices[0]


async def _size(job: twctl.RemoteJob, stream: str) -> int:
    return sum([len(chunk.data) async for chunk in job.output(stream)])


async def test_offset(server: FakeServer, profile: Profile) -> None:
    """Reading begins at any byte."""
    server.jobs[JOB_ID] = FakeJob(output={Stream.STDOUT: TEXT})

    async with Client(profile) as client:
        chunks = await read(client, offset=500)

    assert chunks == [twctl.Chunk(Stream.STDOUT, 500, TEXT[500:])]


async def test_without_follow(server: FakeServer, profile: Profile) -> None:
    """Without follow, reading ends at what there is."""
    running = make_status(state=JobState.RUNNING, exit_code=None)
    server.jobs[JOB_ID] = FakeJob(running, {Stream.STDOUT: b"so far"})

    async with Client(profile) as client:
        chunks = await read(client, follow=False)

    assert [chunk.data for chunk in chunks] == [b"so far"]


async def test_reader_that_stops(server: FakeServer, profile: Profile) -> None:
    """A reader that has enough cancels, and the connection serves on."""
    running = make_status(state=JobState.RUNNING, exit_code=None)
    server.jobs[JOB_ID] = FakeJob(running, {Stream.STDOUT: b"x"})

    async with Client(profile) as client:
        output = client.job(JOB_ID).output()
        assert (await anext(output)).data == b"x"
        await output.aclose()

        await client.info()
        assert not server.sessions[0].outputs


async def test_wait_over_an_outage(server: FakeServer, profile: Profile) -> None:
    """Waiting survives the loss of the connection."""
    server.jobs[JOB_ID] = job = FakeJob(
        make_status(state=JobState.RUNNING, exit_code=None)
    )

    async with Client(profile) as client:
        waiting = asyncio.create_task(client.job(JOB_ID).wait())

        await server.until(lambda: bool(server.asked))
        job.status = make_status(exit_code=3)
        assert server.sessions[0].transport is not None
        server.sessions[0].transport.abort()

        assert (await waiting).exit_code == 3


@pytest.mark.parametrize("error", [Unavailable("draining"), Cancelled("draining")])
async def test_wait_at_a_draining_server(
    server: FakeServer, profile: Profile, error: twctl.RequestError
) -> None:
    """A server that goes down ends no wait; the next one is asked."""
    server.jobs[JOB_ID] = FakeJob()
    server.errors[WaitRequest] = error

    async with Client(profile) as client:
        assert (await client.job(JOB_ID).wait()).exit_code == 0

    assert server.connections == 2


async def test_giving_up(server: FakeServer, profile: Profile) -> None:
    """An outage that lasts too long is a ConnectionClosed with its reason."""
    server.jobs[JOB_ID] = FakeJob()

    async with Client(profile, retry_for=0.2) as client:
        server.cuts = [0] * 1000
        assert server.sessions[0].transport is not None
        server.sessions[0].transport.abort()

        with pytest.raises(twctl.ConnectionClosed, match="gave up"):
            await client.job(JOB_ID).wait()

    assert 3 < server.connections < 20


async def test_without_reconnecting(server: FakeServer, profile: Profile) -> None:
    """Whoever wants no second connection gets the loss at once."""
    server.jobs[JOB_ID] = FakeJob(output={Stream.STDOUT: bytes(10_000)})
    server.cuts = [5000]

    async with Client(profile, retry_for=0) as client:
        with pytest.raises(twctl.ConnectionClosed, match="lost"):
            await read(client)

    assert server.connections == 1


async def test_signal_is_not_sent_twice(server: FakeServer, profile: Profile) -> None:
    """USR1 is sent at most once; SIGKILL and stop until they are answered."""
    server.jobs[JOB_ID] = FakeJob(make_status(state=JobState.RUNNING, exit_code=None))

    async with Client(profile) as client:
        fake = server.sessions[0]
        fake.cut = fake.written + 1
        with pytest.raises(twctl.ConnectionClosed):
            await client.job(JOB_ID).kill(10)

        assert await client.job(JOB_ID).kill()
        fake = server.sessions[-1]
        fake.cut = fake.written + 1
        assert await client.job(JOB_ID).stop(grace=None)

    asked = [type(request) for request in server.asked]
    assert asked == [KillRequest, KillRequest, StopRequest, StopRequest]


async def test_ended_already(server: FakeServer, profile: Profile) -> None:
    """Killing what has ended says so, and is no error."""
    server.jobs[JOB_ID] = FakeJob()

    async with Client(profile) as client:
        assert not await client.job(JOB_ID).kill()
        assert not await client.job(JOB_ID).stop()


async def test_unknown_job(profile: Profile) -> None:
    """Every method says that there is no such job."""
    async with Client(profile) as client:
        job = client.job("nope")

        for attempt in (job.status, job.wait, job.kill, job.stop):
            with pytest.raises(twctl.JobNotFound):
                await attempt()

        with pytest.raises(twctl.JobNotFound):
            await anext(job.output())


async def test_pages(server: FakeServer, profile: Profile) -> None:
    """A list longer than a page is read to its end, or to the limit."""
    server.jobs = {
        str(n): FakeJob(make_status(id=str(n), state=JobState.RUNNING))
        for n in range(1200)
    }

    async with Client(profile) as client:
        every = await client.list()
        some = await client.list(states=["running"], limit=501)
        none = await client.list(states=["lost"])

    assert [job.id for job in every] == list(server.jobs)
    assert len(some) == 501
    assert none == []
    assert sum(isinstance(request, ListRequest) for request in server.asked) == 6


async def test_unavailable(server: FakeServer, profile: Profile) -> None:
    """A server that cannot serve now is an error, not an outage."""
    server.errors = {
        StatusRequest: Unavailable("busy"),
        OutputRequest: Unavailable("busy"),
    }
    server.jobs[JOB_ID] = FakeJob()

    async with Client(profile) as client:
        with pytest.raises(twctl.Unavailable):
            await client.job(JOB_ID).status()

        with pytest.raises(twctl.Unavailable):
            await read(client)


async def test_use_outside_of_the_context(profile: Profile) -> None:
    """A client has to be entered first, and is of no use after."""
    client = Client(profile)

    with pytest.raises(twctl.ConnectionClosed, match="async with"):
        await client.info()

    async with client:
        assert client.is_up

    with pytest.raises(twctl.ConnectionClosed, match="async with"):
        await client.info()


async def test_connect(profile: Profile) -> None:
    """`twctl.connect` takes an address and the three files."""
    async with twctl.connect(
        profile.address, ca=profile.ca, cert=str(profile.cert), key=profile.key
    ) as client:
        assert (await client.info()).name == "alice"
