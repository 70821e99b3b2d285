"""What a client that was let in may not do: dawdle, idle, rush, stay for ever."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from teleworkerd.counters import Dismissal
from teleworkerd.protocol.codec import pack
from teleworkerd.protocol.errors import PermissionDenied, ProtocolViolation
from teleworkerd.protocol.framing import LENGTH, MAX_FRAME_BEFORE_HELLO
from teleworkerd.protocol.messages import (
    MAX_REQUESTS,
    InfoRequest,
    Message,
    Ping,
    Request,
)
from teleworkerd.protocol.responses import Goaway, InfoResponse, ServerHello
from teleworkerd.server.handlers import Call, Handler, Service
from teleworkerd.server.intake import Hold, Intake
from teleworkerd.server.session import Session
from teleworkerd.settings import ServerConfig
from tests.e2e.pki import Certificates
from tests.server.peers import (
    Client,
    Peers,
    Server,
    ask_until_slow,
    client_context,
    serving,
    until,
)
from tests.server.test_session import Held, answer_to, at_once, greeted


INFO: dict[type[Request], Handler] = {InfoRequest: at_once}
PING = pack({"type": "ping", "number": 1})


def elapsed(since: float) -> float:
    """Return the seconds since the loop's clock showed *since*."""
    return asyncio.get_running_loop().time() - since


async def hear_hello(client: Client) -> None:
    """Take the server's hello and do not answer it."""
    client.connection.receive_data(await client.reader.readuntil(b"limits"))
    client.connection.receive_data(await client.reader.read(1 << 16))
    assert isinstance(next(client.connection.events()), ServerHello)
    client.connection.data_to_send()


# Frames


async def test_frame_too_long_before_hello(certs: Certificates) -> None:
    """A long frame is only taken from who has said hello."""
    async with serving(certs) as server, Peers() as peers:
        client = await peers.connect(server, certs, greet=False)
        await hear_hello(client)
        client.writer.write(LENGTH.pack(MAX_FRAME_BEFORE_HELLO + 1))
        error = await client.refusal()

        assert isinstance(error, ProtocolViolation)
        assert await client.is_closed()


@pytest.mark.slow
@pytest.mark.parametrize("part", [b"\0", LENGTH.pack(1 << 20), LENGTH.pack(9) + b"12"])
async def test_frame_that_stops(certs: Certificates, part: bytes) -> None:
    """A frame that begins and does not go on ends the connection."""
    async with serving(certs, frame_timeout=0.4) as server, Peers() as peers:
        client = await peers.connect(server, certs)
        await greeted(client)
        start = asyncio.get_running_loop().time()
        client.writer.write(part)
        error = await client.refusal()

        assert isinstance(error, ProtocolViolation)
        assert "not whole after 0.4 s" in error.message
        assert 0.3 < elapsed(start) < 3
        assert server.counters.dismissals[Dismissal.PROTOCOL] == 1


@pytest.mark.slow
async def test_frame_that_trickles(certs: Certificates) -> None:
    """A large frame of which a little comes now and then is cut off as well."""
    async with serving(certs, frame_timeout=0.5) as server, Peers() as peers:
        client = await peers.connect(server, certs)
        await greeted(client)
        start = asyncio.get_running_loop().time()
        client.writer.write(LENGTH.pack(1 << 20))

        while server.sessions and elapsed(start) < 10:
            client.writer.write(bytes(100))
            await asyncio.sleep(0.02)

        assert 0.4 < elapsed(start) < 3


@pytest.mark.slow
async def test_hello_that_stops(certs: Certificates) -> None:
    """The first frame has no more time than others."""
    async with serving(certs, frame_timeout=0.2) as server, Peers() as peers:
        client = await peers.connect(server, certs, greet=False)
        await hear_hello(client)
        client.writer.write(LENGTH.pack(100) + b"x")

        assert "not whole" in (await client.refusal()).message


@pytest.mark.slow
async def test_each_frame_has_its_time(certs: Certificates) -> None:
    """Frames that are never whole at the same instant are no reason to close."""
    async with serving(certs, frame_timeout=0.4) as server, Peers() as peers:
        client = await peers.connect(server, certs)
        await greeted(client)
        client.writer.write(PING[:5])

        for _ in range(20):
            client.writer.write(PING[5:] + PING[:5])
            await asyncio.sleep(0.05)

        assert not server.session().is_lost


class Line(asyncio.Transport):
    """A transport that notes when it is read and when not."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[str] = []

    def pause_reading(self) -> None:
        """Note it."""
        self.changes.append("pause")

    def resume_reading(self) -> None:
        """Note it."""
        self.changes.append("resume")


class Taken:
    """How much a connection has taken."""

    def __init__(self, frames: int = 0, *, is_mid_frame: bool = False) -> None:
        self.frames = frames
        self.is_mid_frame = is_mid_frame


@asynccontextmanager
async def intake(**settings: Any) -> AsyncIterator[tuple[Intake, Line, list[None]]]:
    """An intake by *settings*; the list has an entry for each frame that is late."""
    line, late = Line(), list[None]()
    it = Intake(line, ServerConfig(**settings), late=lambda: late.append(None))
    yield it, line, late
    it.close()


async def test_two_holds() -> None:
    """There is only read on when nothing is against it any more."""
    async with intake(message_rate=50, message_burst=1) as (it, line, _):
        it.hold(Hold.SLOW)
        assert it.took(Taken(6))  # type: ignore[arg-type]  # all it looks at
        it.release(Hold.SLOW)
        it.hold(Hold.SLOW)
        await until(lambda: it._held == {Hold.SLOW}, what="a token")
        assert line.changes == ["pause"]
        it.release(Hold.SLOW)
        it.release(Hold.SLOW)

        assert line.changes == ["pause", "resume"]


@pytest.mark.slow
async def test_no_busy_loop() -> None:
    """Who waits for a token is looked after by a timer, not again and again."""
    async with intake(message_rate=10, message_burst=1) as (it, line, _):
        loop = asyncio.get_running_loop()
        steps = 0

        def step() -> None:
            nonlocal steps
            steps += 1

        it._bucket = Watched(it._bucket, step)  # type: ignore[assignment]  # does the same
        assert it.took(Taken(5))  # type: ignore[arg-type]  # as above
        start = loop.time()
        await until(lambda: "resume" in line.changes, what="a token")

        assert 0.3 < elapsed(start) < 3
        assert steps < 10


class Watched:
    """A bucket that tells how often it is asked."""

    def __init__(self, bucket: Any, step: Any) -> None:
        self._bucket = bucket
        self._step = step

    def take(self, count: int, *, now: float) -> None:
        """Take tokens."""
        self._bucket.take(count, now=now)

    def wait(self, *, now: float) -> float:
        """Return for how long, and tell."""
        self._step()
        seconds: float = self._bucket.wait(now=now)
        return seconds


@pytest.mark.slow
async def test_frame_while_nobody_listens() -> None:
    """For a frame that we do not read nobody is late; then it has its time again."""
    async with intake(frame_timeout=0.2) as (it, _, late):
        it.took(Taken(1, is_mid_frame=True))  # type: ignore[arg-type]  # as above
        it.hold(Hold.SLOW)
        await asyncio.sleep(0.4)
        assert it.silence == 0
        assert late == []
        start = asyncio.get_running_loop().time()
        it.release(Hold.SLOW)
        await until(lambda: late, what="its deadline")

        assert 0.15 < elapsed(start) < 2


# Messages


@pytest.mark.slow
async def test_message_rate(certs: Certificates) -> None:
    """Who sends too many is not read for a while; all are answered in the end."""
    settings: dict[str, Any] = {"message_rate": 1000.0, "message_burst": 100}

    async with serving(certs, **settings) as server, Peers() as peers:
        client = await peers.connect(server, certs)
        await greeted(client)
        start = asyncio.get_running_loop().time()
        client.writer.write(PING * 1000)
        data = b""

        async with asyncio.timeout(10):
            while data.count(b"pong") < 1000:
                data += await client.reader.read(1 << 16)

        client.writer.write(PING)
        await client.reader.readexactly(1)

        assert elapsed(start) > 0.7
        assert server.counters.throttled == 1
        assert not server.session().is_lost


@pytest.mark.slow
async def test_flood_of_messages(certs: Certificates) -> None:
    """A flood costs the server little, and keeps nobody else waiting."""
    settings: dict[str, Any] = {"message_rate": 200.0, "message_burst": 200}

    async with (
        serving(certs, handlers=INFO, **settings) as server,
        Peers() as peers,
    ):
        flooder = await peers.connect(server, certs)
        other = await peers.connect(server, certs, "bob")
        await greeted(flooder)
        reading = asyncio.create_task(swallow(flooder))

        for _ in range(50):
            flooder.writer.write(PING * 2000)

        for _ in range(20):
            await other.ask(InfoRequest(1), InfoResponse)

        taken = max(one._connection.frames for one in server.sessions)
        assert server.counters.throttled == 1
        assert 2000 < taken < 50_000
        reading.cancel()


async def swallow(client: Client) -> None:
    """Read on and on."""
    while await client.reader.read(1 << 20):
        continue


@pytest.mark.slow
async def test_rush_is_no_silence(certs: Certificates) -> None:
    """Who has to wait is not dropped for what it could not say meanwhile."""
    settings: dict[str, Any] = {
        "message_rate": 100.0,
        "message_burst": 10,
        "ping_interval": 0.1,
        "ping_timeout": 0.3,
    }

    async with serving(certs, **settings) as server, Peers() as peers:
        client = await peers.connect(server, certs)
        await greeted(client)
        client.writer.write(PING * 100)
        await asyncio.sleep(0.8)

        assert not server.session().is_lost


@pytest.mark.slow
async def test_rapid_cancels(certs: Certificates) -> None:
    """However fast requests are cancelled, no more handlers than that are there."""
    now = most = 0

    async def stubborn(service: Service, call: Call, request: Any) -> Message:
        nonlocal now, most
        now += 1
        most = max(most, now)

        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # a cancelled one has something to tidy up, too
            now -= 1

        return answer_to(call)

    pairs = [
        pack({"type": "info", "id": n}) + pack({"type": "cancel", "id": n})
        for n in range(MAX_REQUESTS)
    ]

    async with (
        serving(certs, handlers={InfoRequest: stubborn}) as server,
        Peers() as peers,
    ):
        client = await peers.connect(server, certs)
        await greeted(client)
        sent = 0

        while sent < 10_000:
            client.writer.write(b"".join(pairs))
            sent += len(pairs)
            data = b""

            async with asyncio.timeout(10):
                while data.count(b"cancelled by") < len(pairs):
                    data += await client.reader.read(1 << 16)

        assert most <= MAX_REQUESTS
        await until(lambda: now == 0, what="the end of all")
        assert not server.session().is_lost


async def test_cancelled_one_is_in_flight(certs: Certificates) -> None:
    """Until its handler has returned, a cancelled request keeps its place and id."""
    gate = asyncio.Event()

    async def stubborn(service: Service, call: Call, request: Any) -> Message:
        try:
            await asyncio.Event().wait()
        finally:
            await gate.wait()

        return answer_to(call)

    async with (
        serving(certs, handlers={InfoRequest: stubborn}) as server,
        Peers() as peers,
    ):
        client = await peers.connect(server, certs)
        await greeted(client)
        pair = pack({"type": "info", "id": 1}) + pack({"type": "cancel", "id": 1})
        client.writer.write(pair)
        await until(lambda: server.session().requests, what="the request")
        client.writer.write(pack({"type": "info", "id": 1}))

        assert "request id 1 is in use" in (await client.refusal()).message
        gate.set()


# Time


@pytest.mark.slow
async def test_idle(certs: Certificates) -> None:
    """Who asks nothing for long is sent away, though it says that it is alive."""
    settings: dict[str, Any] = {"idle_timeout": 0.4, "ping_interval": 0.1}

    async with serving(certs, **settings) as server, Peers() as peers:
        client = await peers.connect(server, certs)
        client.flush(Ping(1))
        start = asyncio.get_running_loop().time()
        goaway = await client.expect(Goaway)

        assert goaway.message == "nothing was asked for 0.4 s"
        assert 0.3 < elapsed(start) < 3
        assert await client.is_closed()
        assert server.counters.dismissals[Dismissal.IDLE] == 1


@pytest.mark.slow
async def test_not_idle(certs: Certificates) -> None:
    """Who waits for an answer is not idle, nor who asks now and then."""
    held = Held()
    handlers: dict[type[Request], Handler] = {InfoRequest: held}

    async with (
        serving(certs, handlers=handlers, idle_timeout=0.3) as server,
        Peers() as peers,
    ):
        client = await peers.connect(server, certs)
        client.flush(InfoRequest(1))
        await asyncio.sleep(0.6)
        held.gate.set()
        await client.expect(InfoResponse)

        for _ in range(4):
            await asyncio.sleep(0.15)
            await client.ask(InfoRequest(1), InfoResponse)

        assert not server.session().is_lost
        await client.expect(Goaway)


@pytest.mark.slow
async def test_never_idle(certs: Certificates) -> None:
    """Without a bound nobody is sent away."""
    async with serving(certs, idle_timeout=0) as server, Peers() as peers:
        client = await peers.connect(server, certs)
        await greeted(client)
        await asyncio.sleep(0.3)

        assert server.session()._idle._timer is None


async def expires(session: Session, at: float) -> None:
    """Let the certificate of a client end at that time."""
    await until(lambda: session.principal.name, what="the client")
    session.principal = replace(session.principal, expires_at=at)


@pytest.mark.slow
async def test_certificate_expires(
    certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection ends when its certificate does, with the time."""
    held = Held()

    async with (
        serving(certs, handlers={InfoRequest: held}, ping_interval=0.1) as server,
        Peers() as peers,
    ):
        client = await peers.connect(server, certs)
        client.flush(InfoRequest(1))
        await until(lambda: held.calls, what="the call")
        at = time.time() + 0.4
        await expires(server.session(), at)
        error = await client.refusal()

        assert time.time() > at
        assert isinstance(error, PermissionDenied)
        moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
        assert error.message == f"your certificate has expired at {moment}"
        assert await client.is_closed()
        assert server.counters.dismissals[Dismissal.EXPIRED] == 1

    assert "has to go: your certificate has expired" in caplog.text


async def test_certificate_is_looked_at_often(certs: Certificates) -> None:
    """However rare pings are, a certificate is looked at once a minute."""
    settings: dict[str, Any] = {"ping_interval": 3600.0, "ping_timeout": 7200.0}

    async with serving(certs, **settings) as server, Peers() as peers:
        client = await peers.connect(server, certs)
        await greeted(client)
        timer = server.session()._timer
        assert timer is not None
        due = timer.when() - asyncio.get_running_loop().time()

        assert 0 < due < 61


# Closing


def stop_reading(client: Client) -> None:
    """Read nothing any more."""
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads, too


async def fill(server: Server, client: Client) -> None:
    """Have the server send to *client*, which does not read, all that it takes."""
    stop_reading(client)
    await ask_until_slow(client, server)


async def big(service: Service, call: Call, request: Any) -> Message:
    """Answer at some length."""
    return answer_to(call, version="x" * 250)


@pytest.mark.slow
async def test_end_without_reading(certs: Certificates) -> None:
    """Who sends the end of its stream and reads nothing of what waits is freed."""
    async with (
        serving(certs, handlers={InfoRequest: big}, ping_interval=0.2) as server,
        Peers() as peers,
    ):
        client = await peers.connect(server, certs)
        await greeted(client)
        await fill(server, client)
        sock: socket.socket = client.writer.get_extra_info("socket")

        with socket.socket(fileno=sock.fileno()) as same:
            same.shutdown(socket.SHUT_WR)
            same.detach()

        start = asyncio.get_running_loop().time()
        await until(lambda: not server.sessions, what="its end")

        assert elapsed(start) < 3


@pytest.mark.slow
async def test_goaway_without_reading(certs: Certificates) -> None:
    """Who does not take even the goodbye is dropped by force."""
    async with (
        serving(certs, handlers={InfoRequest: big}) as server,
        Peers() as peers,
    ):
        client = await peers.connect(server, certs)
        await greeted(client)
        await fill(server, client)
        start = asyncio.get_running_loop().time()
        await server.registry.close("the end")

        assert not server.sessions
        assert elapsed(start) < 3


def deaf(server: Server, certs: Certificates, *, name: str | None) -> ssl.SSLSocket:
    """Shake hands with the certificate of *name*, if any, and never read."""
    context = client_context(certs, None if name is None else certs.of(name))
    raw = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    return context.wrap_socket(raw, server_hostname="localhost")


REFUSED: dict[str, dict[str, Any]] = {
    "no hello": {"hello_timeout": 0.2},
    "full": {"connections": 1},
    "dismissed": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("why", REFUSED)
async def test_refused_without_reading(certs: Certificates, why: str) -> None:
    """Whatever the reason, who is refused and does not close is dropped by force."""
    async with serving(certs, **REFUSED[why]) as server, Peers() as peers:
        if why == "full":
            await greeted(await peers.connect(server, certs))

        rest = len(server.sessions)

        with await asyncio.to_thread(deaf, server, certs, name="alice"):
            await until(lambda: len(server.sessions) > rest, what="the session")
            start = asyncio.get_running_loop().time()

            if why == "dismissed":
                server.registry.recheck(lambda _: PermissionDenied("away"))

            await until(lambda: len(server.sessions) == rest, what="its end")

            assert elapsed(start) < 3


@pytest.mark.slow
async def test_refused_handshake_without_reading(certs: Certificates) -> None:
    """Who is refused by TLS and neither reads nor closes is gone soon."""
    async with serving(certs, handshake_timeout=60.0) as server:
        with await asyncio.to_thread(deaf, server, certs, name=None):
            start = asyncio.get_running_loop().time()
            await until(lambda: not server.listener._handshakes, what="its end")

            assert elapsed(start) < 3
