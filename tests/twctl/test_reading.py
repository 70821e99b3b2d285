"""The library's reading: times, gaps, both streams, removal."""

from datetime import UTC, datetime, timedelta

import pytest

import twctl
from teleworkerd.protocol.messages import InterleaveRequest, OutputRequest
from teleworkerd.protocol.types import Chunk, Gap, JobState, Stream
from tests.twctl.calling import asked
from tests.twctl.fake import FakeServer
from tests.twctl.fake_output import JOB_ID, FakeJob, make_status
from twctl.client import Client
from twctl.profile import Profile


pytestmark = pytest.mark.timeout(30)

SECOND = 10**9
TIME = 1_767_323_045 * SECOND
MOVES = [
    (TIME, Stream.STDOUT, b"one\n"),
    (TIME + SECOND, Stream.STDERR, b"two\n"),
    (TIME + 2 * SECOND, Stream.STDOUT, b"three\n"),
]


@pytest.fixture(autouse=True)
def job(server: FakeServer) -> FakeJob:
    """A job that wrote to both streams."""
    server.jobs[JOB_ID] = FakeJob(moves=list(MOVES))
    return server.jobs[JOB_ID]


async def test_both_streams_in_order(profile: Profile) -> None:
    """Chunks come in the order in which the bytes did, and say whose they are."""
    async with Client(profile) as client:
        chunks = [chunk async for chunk in client.job(JOB_ID).interleaved(times=True)]

    assert chunks == [
        Chunk(Stream.STDOUT, 0, b"one\n", (0, TIME)),
        Chunk(Stream.STDERR, 0, b"two\n", (0, TIME + SECOND)),
        Chunk(Stream.STDOUT, 4, b"three\n", (4, TIME + 2 * SECOND)),
    ]


async def test_both_streams_over_outages(server: FakeServer, profile: Profile) -> None:
    """The order is the same, whatever happens to the connection."""
    server.chunk_size = 2
    server.cuts = [300, 250, 250]

    async with Client(profile) as client:
        output = client.job(JOB_ID).interleaved()
        data = b"".join([chunk.data async for chunk in output])

    assert data == b"one\ntwo\nthree\n"
    assert len(asked(server, InterleaveRequest)) > 1


@pytest.mark.parametrize(
    ("since", "until"),
    [
        (TIME + SECOND, TIME + 3 * SECOND),
        (
            datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC),
            datetime(2026, 1, 2, 3, 4, 8, tzinfo=UTC),
        ),
        (timedelta(seconds=9), timedelta(seconds=1)),
    ],
)
async def test_window_of_time(
    server: FakeServer, profile: Profile, since: twctl.Moment, until: twctl.Moment
) -> None:
    """Times are given as numbers, as times, or as so long ago for the server."""
    server.clock = TIME + 10 * SECOND

    async with Client(profile) as client:
        output = client.job(JOB_ID).output(since=since, until=until)
        assert [chunk.data async for chunk in output] == [b"three\n"]
        assert 0 <= client.now() - server.clock < 10 * SECOND


async def test_until_ends_the_output_of_a_running_job(
    server: FakeServer, profile: Profile, job: FakeJob
) -> None:
    """An end that was asked for is no lost connection."""
    job.status = make_status(state=JobState.RUNNING, exit_code=None)

    async with Client(profile) as client:
        output = client.job(JOB_ID).interleaved(until=TIME + SECOND)
        assert [chunk.data async for chunk in output] == [b"one\n"]

    assert server.connections == 1


async def test_gap(profile: Profile, job: FakeJob) -> None:
    """A gap is an error unless somebody wants to be told of it."""
    job.gaps = [Gap(Stream.STDOUT, 1, 6)]
    told: list[object] = []

    async with Client(profile) as client:
        async for chunk in client.job(JOB_ID).output(on_gap=told.append):
            told.append(chunk.data)  # noqa: PERF401 - gaps come in between

        assert told == [b"o", Gap(Stream.STDOUT, 1, 6), b"ree\n"]

        output = client.job(JOB_ID).output()
        assert (await anext(output)).data == b"o"

        with pytest.raises(twctl.OutputDropped, match="from 1 up to 6") as error:
            await anext(output)

    assert error.value.gap == Gap(Stream.STDOUT, 1, 6)


async def test_range(server: FakeServer, profile: Profile) -> None:
    """A request with credit gets no more than that, over a cut too."""
    server.chunk_size = 2
    request = OutputRequest(0, JOB_ID, offset=1, credit=5)
    reads: list[bytes] = []

    async with Client(profile) as client:
        reading = client.job(JOB_ID).read(request)

        async for item in reading.items():
            assert isinstance(item, Chunk)
            reads.append(item.data)

            if len(reads) == 1:
                server.drop()

            if item.stop == 6:
                break

    assert b"".join(reads) == b"ne\nth"
    credit = [r.credit for r in server.asked if isinstance(r, OutputRequest)]
    assert credit[0] == 5
    assert all(amount < 5 for amount in credit[1:])


async def test_remove(server: FakeServer, profile: Profile, job: FakeJob) -> None:
    """A job is removed once it has ended."""
    job.status = make_status(state=JobState.RUNNING, exit_code=None)

    async with Client(profile) as client:
        with pytest.raises(twctl.JobNotEnded):
            await client.job(JOB_ID).remove()

        job.status = make_status()
        await client.job(JOB_ID).remove()

        with pytest.raises(twctl.JobNotFound):
            await client.job(JOB_ID).status()


async def test_run(server: FakeServer, profile: Profile) -> None:
    """What shall become of the output is part of the spec."""
    async with Client(profile) as client:
        await client.run(
            ["true"], merge=True, output_limit=5, on_full="kill", request_id="mine"
        )

    spec = server.started["mine"]
    assert (spec.merge, spec.output_limit) == (True, 5)
    assert spec.on_full is twctl.OnFull.KILL
