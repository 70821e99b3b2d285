"""One connection under asyncio."""

import asyncio
import socket

import pytest

from teleworkerd.protocol.errors import (
    ConnectionClosed,
    InvalidRequest,
    JobNotFound,
    ProtocolViolation,
)
from teleworkerd.protocol.framing import LENGTH
from teleworkerd.protocol.messages import (
    MAX_REQUESTS,
    Cancel,
    InfoRequest,
    OutputRequest,
    Ping,
    StatusRequest,
    WaitRequest,
)
from teleworkerd.protocol.responses import (
    ErrorResponse,
    Goaway,
    InfoResponse,
    ListResponse,
    StatusResponse,
)
from teleworkerd.protocol.types import Chunk, JobState, Stream
from tests.twctl.fake import FakeServer, FakeSession, context_of
from tests.twctl.fake_output import JOB_ID, FakeJob, make_status
from twctl import opening
from twctl import session as session_module
from twctl.profile import Profile
from twctl.rejection import ConnectionRejected
from twctl.session import Session
from twctl.subscription import WINDOW


pytestmark = pytest.mark.timeout(20)

RUNNING = make_status(state=JobState.RUNNING, exit_code=None)


async def opened(profile: Profile) -> Session:
    """Return a session with the fake server."""
    return await opening.open_session(profile, context_of(profile))


async def until(server: FakeServer, count: int) -> None:
    """Return when the server has been asked *count* times."""
    await server.until(lambda: len(server.asked) >= count)


async def test_answer(server: FakeServer, profile: Profile) -> None:
    """A request gets its own response."""
    server.jobs[JOB_ID] = FakeJob()
    session = await opened(profile)

    answers = await asyncio.gather(
        session.ask(StatusRequest(0, JOB_ID), StatusResponse),
        session.ask(InfoRequest(0), InfoResponse),
    )

    assert answers[0].status == make_status()
    assert answers[1].name == "alice"
    await session.close()


async def test_refusal(profile: Profile) -> None:
    """An error response is raised as the class that has its code."""
    session = await opened(profile)

    with pytest.raises(JobNotFound, match="no job nope"):
        await session.ask(StatusRequest(0, "nope"), StatusResponse)

    await session.close()


async def test_wrong_answer(profile: Profile) -> None:
    """A response of another kind ends trust in the server."""
    session = await opened(profile)

    with pytest.raises(ConnectionRejected, match="info was answered by info"):
        await session.ask(InfoRequest(0), ListResponse)

    await session.close()


async def test_more_requests_than_allowed(server: FakeServer, profile: Profile) -> None:
    """Requests beyond what the server takes at once wait for their turn."""
    server.jobs[JOB_ID] = FakeJob(RUNNING)
    session = await opened(profile)
    waits = [
        asyncio.create_task(session.ask(WaitRequest(0, JOB_ID), StatusResponse))
        for _ in range(MAX_REQUESTS)
    ]
    await until(server, MAX_REQUESTS)
    late = asyncio.create_task(session.ask(InfoRequest(0), InfoResponse))
    await asyncio.sleep(0)

    assert not late.done()

    fake = server.sessions[0]
    fake.connection.send(StatusResponse(server.asked[0].id, RUNNING))
    fake.flush()
    assert (await late).version == "1.0"
    await session.close()
    assert all(
        isinstance(result, ConnectionClosed | StatusResponse)
        for result in await asyncio.gather(*waits, return_exceptions=True)
    )


async def test_cancelled_wait(
    server: FakeServer, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who gives up waiting tells the server, and the session goes on."""
    cancels: list[Cancel] = []
    accept = FakeSession.accept

    def record(fake: FakeSession, message: object) -> None:
        if isinstance(message, Cancel):
            cancels.append(message)
            fake.connection.send(ErrorResponse("cancelled", "cancelled", message.id))
        else:
            accept(fake, message)  # type: ignore[arg-type]

    monkeypatch.setattr(FakeSession, "accept", record)
    server.jobs[JOB_ID] = FakeJob(RUNNING)
    session = await opened(profile)
    waiting = asyncio.create_task(session.ask(WaitRequest(0, JOB_ID), StatusResponse))
    await until(server, 1)

    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    await session.ask(InfoRequest(0), InfoResponse)
    assert [cancel.id for cancel in cancels] == [server.asked[0].id]
    await session.close()


async def test_lost_connection(server: FakeServer, profile: Profile) -> None:
    """When the server goes, everything that waits fails, and what comes later."""
    server.jobs[JOB_ID] = FakeJob(RUNNING)
    session = await opened(profile)
    waiting = asyncio.create_task(session.ask(WaitRequest(0, JOB_ID), StatusResponse))
    await until(server, 1)

    assert server.sessions[0].transport is not None
    server.sessions[0].transport.abort()

    with pytest.raises(ConnectionClosed, match="the connection was lost"):
        await waiting

    with pytest.raises(ConnectionClosed, match="the connection was lost"):
        await session.ask(InfoRequest(0), InfoResponse)

    assert session.is_closed


async def test_server_that_is_killed(
    server: FakeServer, profile: Profile, caplog: pytest.LogCaptureFixture
) -> None:
    """Who asks much at that moment is told; nothing is written into the void."""
    session = await opened(profile)

    async def ask_on() -> None:
        while True:
            await session.ask(InfoRequest(0), InfoResponse)

    asking = [asyncio.create_task(ask_on()) for _ in range(40)]
    await until(server, 500)
    transport = server.sessions[0].transport
    assert transport is not None

    # As the kernel does it, without a word of TLS.
    with socket.socket(fileno=transport.get_extra_info("socket").fileno()) as sock:
        sock.shutdown(socket.SHUT_RDWR)
        sock.detach()

    for error in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(error, ConnectionClosed)

    assert [record for record in caplog.records if record.name == "asyncio"] == []


async def test_goaway(server: FakeServer, profile: Profile) -> None:
    """A server that says goodbye is a lost connection with its words."""
    session = await opened(profile)
    server.sessions[0].connection.send(Goaway("draining"))
    server.sessions[0].flush()

    with pytest.raises(ConnectionClosed, match="draining") as error:
        await session.ask(WaitRequest(0, JOB_ID), StatusResponse)

    assert not isinstance(error.value, ConnectionRejected)


async def test_refused_connection(server: FakeServer, profile: Profile) -> None:
    """An error about the whole connection fails all, the cause chained."""
    server.jobs[JOB_ID] = FakeJob(RUNNING)
    session = await opened(profile)
    waiting = asyncio.create_task(session.ask(WaitRequest(0, JOB_ID), StatusResponse))
    await until(server, 1)
    server.sessions[0].connection.send(ErrorResponse("protocol_error", "odd"))
    server.sessions[0].flush()

    with pytest.raises(ConnectionRejected, match="odd") as error:
        await waiting

    assert isinstance(error.value.__cause__, ProtocolViolation)


async def test_credit(server: FakeServer, profile: Profile) -> None:
    """No more than the window arrives unread, and reading lets the rest come."""
    data = bytes(range(256)) * (3 * WINDOW // 256)
    server.jobs[JOB_ID] = FakeJob(output={Stream.STDOUT: data})
    session = await opened(profile)
    subscription, _ = await session.subscribe(
        OutputRequest(0, JOB_ID, credit=WINDOW, follow=True)
    )
    fake = server.sessions[0]

    await session.ask(InfoRequest(0), InfoResponse)

    assert not fake.connection.credit(server.asked[0].id)
    assert fake.outputs[server.asked[0].id].offsets == {Stream.STDOUT: WINDOW}

    assert data == b"".join(
        [item.data async for item in subscription.items() if isinstance(item, Chunk)]
    )
    assert subscription.end is not None
    assert subscription.end.status is not None
    assert subscription.end.status.stdout.end == len(data)
    await session.close()


async def test_one_slow_stream(server: FakeServer, profile: Profile) -> None:
    """A stream that nobody reads holds up neither the other nor a request."""
    data = bytes(2 * WINDOW)
    server.jobs[JOB_ID] = FakeJob(output={Stream.STDOUT: data, Stream.STDERR: data})
    session = await opened(profile)
    request = OutputRequest(0, JOB_ID, credit=WINDOW, follow=True)
    await session.subscribe(request)
    other, _ = await session.subscribe(
        OutputRequest(0, JOB_ID, Stream.STDERR, credit=WINDOW, follow=True)
    )

    read = [item.stop - item.offset async for item in other.items()]

    assert sum(read) == len(data)
    await session.ask(InfoRequest(0), InfoResponse)
    await session.close()


async def test_refused_output(server: FakeServer, profile: Profile) -> None:
    """An output request may be refused before it is opened."""
    session = await opened(profile)

    with pytest.raises(JobNotFound):
        await session.subscribe(OutputRequest(0, "nope"))

    server.errors[OutputRequest] = InvalidRequest("odd")

    with pytest.raises(InvalidRequest):
        await session.subscribe(OutputRequest(0, "nope"))

    await session.close()


async def test_pings(
    server: FakeServer, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence is answered by pings, and the answers keep the session alive."""
    monkeypatch.setattr(session_module, "PING_AFTER", 0.02)
    monkeypatch.setattr(session_module, "LOST_AFTER", 2)
    server.jobs[JOB_ID] = FakeJob(RUNNING)
    session = await opened(profile)
    waiting = asyncio.create_task(session.ask(WaitRequest(0, JOB_ID), StatusResponse))

    await until(server, 1)

    for _ in range(3):
        await server.heard()

    server.sessions[0].connection.send(Ping(7))
    server.sessions[0].flush()
    await server.heard()

    assert not waiting.done()
    await session.close()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_silence(
    server: FakeServer, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that does not even response pings is given up."""
    monkeypatch.setattr(session_module, "PING_AFTER", 0.02)
    monkeypatch.setattr(session_module, "LOST_AFTER", 0.1)
    monkeypatch.setattr(FakeSession, "data_received", lambda *_: None)
    session = await opened(profile)

    with pytest.raises(ConnectionClosed, match="no sign of life"):
        await session.ask(InfoRequest(0), InfoResponse)


async def test_silent_server(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that never says hello is not waited for for ever."""
    monkeypatch.setattr(opening, "HELLO_TIMEOUT", 0.1)
    monkeypatch.setattr(FakeSession, "flush", lambda _: None)

    with pytest.raises(ConnectionClosed, match="no word from the server"):
        await opened(profile)


async def test_unused_session_can_be_closed_twice(profile: Profile) -> None:
    """Closing is safe at any time."""
    session = await opened(profile)

    await session.close()
    await session.close()
    session.abort()


async def test_a_broken_server_may_go_on_sending(
    server: FakeServer, profile: Profile
) -> None:
    """What comes after a frame that cannot be read is no fault of the transport."""
    faults: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, fault: faults.append(fault))
    session = await opened(profile)
    [peer] = server.sessions
    assert peer.transport is not None
    peer.transport.write(LENGTH.pack(1) + b"\xc1" + bytes(4 << 20))

    with pytest.raises(ConnectionRejected):
        await session.ask(WaitRequest(0, JOB_ID), StatusResponse)

    await session.close()

    assert faults == []
