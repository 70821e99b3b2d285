"""A link gives every byte once, in order, under any sequence of cuts."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from teleworkerd.protocol.errors import ConnectionClosed
from teleworkerd.protocol.messages import StatusRequest, WaitRequest
from teleworkerd.protocol.types import JobState, Stream
from tests.e2e.pki import Certificates
from tests.twctl.fake import OTHER_ID, FakeServer, profile_of
from tests.twctl.fake_output import JOB_ID, FakeJob, make_status
from twctl import link, outage
from twctl.client import Client
from twctl.profile import Profile


pytestmark = pytest.mark.timeout(60)

RUNNING = make_status(state=JobState.RUNNING, exit_code=None)
HELLO = 200  # bytes; more than a hello and what opens a stream


@asynccontextmanager
async def listening(
    server: FakeServer, certs: Certificates, port: int = 0
) -> AsyncIterator[Profile]:
    """Serve on this loop, and leave nothing of it."""
    listener = await server.listen(certs, port)

    try:
        yield profile_of(listener.sockets[0].getsockname(), certs)
    finally:
        listener.close()

        for session in server.sessions:
            if session.transport is not None:
                session.transport.abort()


async def asked(server: FakeServer, count: int) -> None:
    """Return when the server has been asked so often."""
    await server.until(lambda: len(server.asked) >= count)


async def read(client: Client, stream: Stream = Stream.STDOUT) -> bytes:
    """Return a stream of the job, after a check that each chunk comes where it must."""
    data = bytearray()

    async for chunk in client.job(JOB_ID).output(stream):
        assert chunk.offset == len(data)
        data += chunk.data

    return bytes(data)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    out=st.binary(max_size=3000),
    err=st.binary(max_size=3000),
    cuts=st.lists(st.none() | st.integers(0, 4000), max_size=8),
    chunk_size=st.integers(1, 1500),
)
def test_any_cuts(
    certs: Certificates,
    out: bytes,
    err: bytes,
    cuts: list[int | None],
    chunk_size: int,
) -> None:
    """Two streams come out whole, with one notice, wherever the server cuts."""
    job = FakeJob(output={Stream.STDOUT: out, Stream.STDERR: err})
    server = FakeServer({JOB_ID: job}, chunk_size=max(chunk_size, len(out) // 50))
    notices: list[str] = []

    async def scenario() -> list[bytes]:
        async with (
            listening(server, certs) as profile,
            Client(profile, notice=notices.append) as client,
        ):
            server.cuts = list(cuts)
            server.drop()
            return await asyncio.gather(*(read(client, stream) for stream in Stream))

    assert asyncio.run(scenario()) == [out, err]
    assert len(notices) == 1


async def test_one_notice_for_an_outage(server: FakeServer, profile: Profile) -> None:
    """A link that is cut again and again, with progress between, is one outage."""
    data = bytes(range(256)) * 40
    server.jobs[JOB_ID] = FakeJob(output={Stream.STDOUT: data})
    server.chunk_size = 600
    server.cuts = [HELLO + 1500] * 6
    notices: list[str] = []

    async with Client(profile, notice=notices.append) as client:
        assert await read(client) == data

    assert server.connections == 7
    assert len(notices) == 1


async def test_two_outages(
    server: FakeServer, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that lasts ends an outage; the next one is told again."""
    monkeypatch.setattr(link, "STABLE_AFTER", 0)
    server.jobs[JOB_ID] = FakeJob()
    notices: list[str] = []

    async with Client(profile, notice=notices.append) as client:
        for _ in range(2):
            session = client._link._session
            assert session is not None
            server.drop()
            await session._gone
            await client.info()

    assert len(notices) == 2


async def test_waiting_on_a_bad_link(server: FakeServer, profile: Profile) -> None:
    """A wait goes on as long as the server is there, though it answers nothing."""
    job = server.jobs[JOB_ID] = FakeJob(RUNNING)

    async with Client(profile, retry_for=0.5) as client:
        waiting = asyncio.create_task(client.job(JOB_ID).wait())

        for count in range(1, 6):
            await asked(server, count)
            await asyncio.sleep(0.15)  # in all longer than the patience
            server.drop()

        job.status = make_status(exit_code=3)

        assert (await waiting).exit_code == 3


async def test_giving_up(server: FakeServer, certs: Certificates) -> None:
    """Who gives up says why, after how long, and from where on to go on."""
    server.jobs[JOB_ID] = FakeJob(RUNNING, {Stream.STDOUT: b"12345"})

    async with listening(server, certs) as profile:
        client = Client(profile, retry_for=0.3)
        await client.__aenter__()
        output = client.job(JOB_ID).output()
        waiting = asyncio.create_task(client.job(JOB_ID).wait())
        assert (await anext(output)).data == b"12345"

    with pytest.raises(outage.GaveUp) as of_output:
        await anext(output)

    with pytest.raises(outage.GaveUp) as of_wait:
        await waiting

    assert f"twctl tail -f --from-offset 5 {JOB_ID}" in str(of_output.value)
    assert f"twctl wait {JOB_ID}" in str(of_wait.value)
    assert "nothing listens there" in str(of_wait.value)
    assert "gave up connecting again after 0.3 s" in str(of_wait.value)
    assert of_wait.value.tried == pytest.approx(0.3, abs=0.2)
    await client.__aexit__(None, None, None)


async def test_after_giving_up(server: FakeServer, certs: Certificates) -> None:
    """Who asks later, when the server is back, is answered."""
    notices: list[str] = []

    async with listening(server, certs) as profile:
        client = Client(profile, retry_for=0.2, notice=notices.append)
        await client.__aenter__()

    with pytest.raises(outage.GaveUp):
        await client.info()

    async with listening(server, certs, profile.port):
        assert (await client.info()).name == "alice"
        await client.__aexit__(None, None, None)

    assert len(notices) == 2


async def test_reader_that_leaves_in_an_outage(
    server: FakeServer, certs: Certificates
) -> None:
    """Who stops waiting for a connection takes it from nobody else."""
    server.jobs[JOB_ID] = FakeJob(output={Stream.STDOUT: b"all"})
    notices: list[str] = []

    async with listening(server, certs) as profile:
        client = Client(profile, notice=notices.append)
        await client.__aenter__()

    impatient = asyncio.create_task(client.info())
    patient = asyncio.create_task(read(client))
    await asyncio.sleep(0.1)
    impatient.cancel()
    await asyncio.wait([impatient])

    async with listening(server, certs, profile.port):
        assert await patient == b"all"
        await client.__aexit__(None, None, None)

    assert impatient.cancelled()
    assert len(notices) == 1


async def test_reader_beside_another(server: FakeServer, profile: Profile) -> None:
    """A reader that leaves takes nothing from another that is just as far."""
    data = bytes(range(256)) * 8
    server.jobs[JOB_ID] = FakeJob(output={Stream.STDOUT: data})
    server.chunk_size = 1024

    async with Client(profile) as client:
        first, second = (client.job(JOB_ID).output() for _ in range(2))
        begun = (await anext(first)).data
        assert (await anext(second)).data == begun
        await second.aclose()
        rest = [chunk.data async for chunk in first]

    assert b"".join([begun, *rest]) == data


async def test_closing_in_an_outage(server: FakeServer, certs: Certificates) -> None:
    """A client that is closed while it connects again fails what waits, at once."""
    lost = asyncio.Event()

    async with listening(server, certs) as profile:
        client = Client(profile, notice=lambda _: lost.set())
        await client.__aenter__()

    waiting = asyncio.create_task(client.info())
    await lost.wait()
    await client.__aexit__(None, None, None)

    with pytest.raises(ConnectionClosed, match="the client was closed"):
        await waiting


async def test_cut_before_the_first_hello(server: FakeServer, profile: Profile) -> None:
    """Who is cut off before a hello tries again; that is no outage."""
    server.cuts = [0, 0, 0]
    notices: list[str] = []

    async with Client(profile, notice=notices.append) as client:
        assert (await client.info()).name == "alice"

    assert server.connections == 4
    assert notices == []


async def test_never_a_hello(
    server: FakeServer, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is always cut off is told soon."""
    monkeypatch.setattr(link, "FIRST_TRY", 0.3)
    server.cuts = [0] * 1000

    with pytest.raises(ConnectionClosed, match="during authentication"):
        await Client(profile).__aenter__()

    assert 1 < server.connections < 20


async def test_refused_at_first(certs: Certificates) -> None:
    """Where nothing listens, the first connection fails at once."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = probe.getsockname()

    with pytest.raises(ConnectionClosed, match="nothing listens there"):
        async with asyncio.timeout(1):
            await Client(profile_of(address, certs)).__aenter__()


async def test_name_that_moves(server: FakeServer, profile: Profile) -> None:
    """Who reads or waits for a job by name goes on with that job."""
    old = make_status(id=JOB_ID, exit_code=1)
    server.jobs = {"n": FakeJob(old, {Stream.STDOUT: b"old"})}

    async with Client(profile) as client:
        job = client.job("n")
        assert [chunk.data async for chunk in job.output()] == [b"old"]
        server.jobs = {
            "n": FakeJob(make_status(id=OTHER_ID, exit_code=2)),
            JOB_ID: server.jobs["n"],
        }
        assert (await job.wait()).exit_code == 1
        assert (await client.job("n").wait()).exit_code == 2

    kinds = [type(request) for request in server.asked]
    assert kinds.count(StatusRequest) == 2
    assert kinds.count(WaitRequest) == 2


async def test_keepalive(server: FakeServer, profile: Profile) -> None:
    """The kernel notices a peer that is gone, whichever way we connect."""
    async with Client(profile) as client:
        session = client._link._session
        assert session is not None
        assert session._transport is not None
        sock = session._transport.get_extra_info("socket")
        options = [
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
        ]

    assert options == [1, 30_000, 1]
