"""One client's connection, over real TLS: its deadlines, its requests, its end."""

import asyncio
import logging
from typing import Any

import pytest

from teleworkerd.protocol.codec import pack
from teleworkerd.protocol.errors import (
    JobNotFound,
    PermissionDenied,
    ProtocolViolation,
    UnsupportedVersion,
)
from teleworkerd.protocol.framing import LENGTH
from teleworkerd.protocol.messages import (
    Cancel,
    InfoRequest,
    Message,
    Ping,
    Request,
    RunRequest,
    WaitRequest,
)
from teleworkerd.protocol.responses import (
    ErrorResponse,
    Goaway,
    InfoResponse,
    ServerHello,
)
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.server.handlers import Call, Handler, Service
from tests.e2e.pki import Certificates, issue
from tests.server.peers import (
    Client,
    Peers,
    ask_until_slow,
    client_context,
    error_of,
    serving,
    until,
)


Handlers = dict[type[Request], Handler]


class Held:
    """A handler that does not answer until the test lets it."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.cancelled: list[int] = []
        self.gate = asyncio.Event()

    async def __call__(self, service: Service, call: Call, request: Any) -> Message:
        self.calls.append(call)

        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(call.id)
            raise

        return answer_to(call)


def answer_to(call: Call, *, version: str = "1") -> InfoResponse:
    """Return a response to `InfoRequest`."""
    return InfoResponse(
        call.id, version, call.owner, 1, 1, 0, "none", {}, {}, 1, (0.0,)
    )


async def at_once(service: Service, call: Call, request: Any) -> Message:
    """Response."""
    return answer_to(call)


async def greeted(client: Client) -> None:
    """Return once the server has taken the client's hello."""
    client.flush(Ping(7))
    message = await client.reader.readexactly(LENGTH.size)
    (size,) = LENGTH.unpack(message)
    assert b"pong" in await client.reader.readexactly(size)


async def test_server_speaks_first(certs: Certificates) -> None:
    """The hello comes before the client has said anything."""
    async with serving(certs) as server, Peers() as peers:
        client = await peers.connect(server, certs, greet=False)
        head = await client.reader.readexactly(LENGTH.size)

        assert 0 < LENGTH.unpack(head)[0] < 1000


@pytest.mark.parametrize("protocols", [None, ["http/1.1"], ["teleworker/2"]])
async def test_alpn(
    certs: Certificates,
    caplog: pytest.LogCaptureFixture,
    protocols: list[str] | None,
) -> None:
    """Who does not speak our protocol reads that, and is closed."""
    context = client_context(certs, certs.of("alice"))
    context.set_alpn_protocols(protocols or [])

    async with serving(certs) as server, Peers() as peers:
        client = await peers.connect(server, certs, context=context, greet=False)
        error = await client.refusal()

        assert isinstance(error, PermissionDenied)
        assert "teleworker/1" in error.message
        assert await client.is_closed()

    assert "does not speak teleworker/1" in caplog.text


async def test_name_that_is_not_decent(
    certs: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A certificate that TLS takes, but that names nobody, is refused with words."""
    odd = issue(certs, "/CN=alice/CN=bob", into=tmp_path_factory.mktemp("odd"))

    async with serving(certs) as server, Peers() as peers:
        context = client_context(certs, odd)
        client = await peers.connect(server, certs, context=context, greet=False)
        error = await client.refusal()

        assert isinstance(error, PermissionDenied)
        assert "2 common names" in error.message
        assert await client.is_closed()


async def test_no_hello(certs: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    """Who says nothing after the handshake is told so, and closed."""
    async with serving(certs, hello_timeout=0.2) as server, Peers() as peers:
        client = await peers.connect(server, certs, greet=False)
        client.connection.receive_data(await client.reader.readuntil(b"no hello"))

        assert await client.is_closed() or await client.reader.read() != b""

    assert "sent no hello" in caplog.text


async def test_hello_in_time(certs: Certificates) -> None:
    """The deadline for the hello is over once it has come."""
    async with serving(certs, hello_timeout=0.2) as server, Peers() as peers:
        client = await peers.connect(server, certs)
        await greeted(client)
        await asyncio.sleep(0.4)

        await greeted(client)


async def test_silent_client(
    certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that is silent is asked, and dropped when it does not answer."""
    caplog.set_level(logging.INFO)
    settings: dict[str, Any] = {"ping_interval": 0.1, "ping_timeout": 0.4}

    async with serving(certs, **settings) as server, Peers() as peers:
        client = await peers.connect(server, certs)
        await greeted(client)
        start = asyncio.get_running_loop().time()
        data = b""

        try:
            async with asyncio.timeout(5):
                while more := await client.reader.read(1 << 16):
                    data += more
        except ConnectionError:
            pass

        assert data.count(b"ping") >= 1
        assert 0.3 < asyncio.get_running_loop().time() - start < 3

    assert "was silent for" in caplog.text


async def test_quiet_client(certs: Certificates) -> None:
    """One that answers the pings stays."""
    settings: dict[str, Any] = {"ping_interval": 0.1, "ping_timeout": 0.3}
    handlers: Handlers = {InfoRequest: at_once}

    async with (
        serving(certs, handlers=handlers, **settings) as server,
        Peers() as peers,
    ):
        client = await peers.connect(server, certs)
        receiving = asyncio.create_task(client.receive())
        await asyncio.sleep(1)
        client.flush(InfoRequest(1))

        assert isinstance(await receiving, InfoResponse)


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"\xff" * 8, ProtocolViolation, "a frame of 4294967295 bytes"),
        (LENGTH.pack(0), ProtocolViolation, "a frame of 0 bytes"),
        (LENGTH.pack(16385), ProtocolViolation, "a frame of 16385 bytes"),
        (LENGTH.pack(1) + b"\xc1", ProtocolViolation, "cut short|not a|refused|ext"),
        (pack({"type": "nonsense"}), ProtocolViolation, "unknown message type"),
        (pack({"type": "info", "id": 1}), ProtocolViolation, "before hello"),
        (pack({"type": "hello", "version": 99}), UnsupportedVersion, "version 99"),
    ],
    ids=["noise", "empty", "too long", "no msgpack", "unknown", "early", "version"],
)
async def test_broken_rule(
    certs: Certificates,
    caplog: pytest.LogCaptureFixture,
    data: bytes,
    kind: type[Exception],
    words: str,
) -> None:
    """Who breaks a rule reads which, and is closed; the log has one line."""
    async with serving(certs) as server, Peers() as peers:
        client = await peers.connect(server, certs, greet=False)
        client.writer.write(data)
        error = await client.refusal()

        assert isinstance(error, kind)
        assert await client.is_closed()
        await until(lambda: not server.sessions, what="the end of the session")

    broken = [line for line in caplog.messages if "broke the protocol" in line]
    assert len(broken) == 1
    assert broken[0].startswith("alice@127.0.0.1:")
    assert any(word in error.message for word in words.split("|"))


async def test_client_that_does_not_close(certs: Certificates) -> None:
    """A peer that neither reads nor closes is dropped by force."""
    async with serving(certs, close_timeout=0.3) as server, Peers() as peers:
        client = await peers.connect(server, certs)
        await greeted(client)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads, too
        client.writer.write(b"\xff" * 8)
        await until(lambda: server.sessions[0]._is_closing, what="the close")
        start = asyncio.get_running_loop().time()
        await until(lambda: not server.sessions, what="the end")

        assert asyncio.get_running_loop().time() - start < 2


async def test_goodbye(certs: Certificates) -> None:
    """At the end of the server each client is told, then closed."""
    async with serving(certs) as server, Peers() as peers:
        clients = [await peers.connect(server, certs) for _ in range(3)]

        for client in clients:
            await greeted(client)

        async with asyncio.timeout(5):
            await server.registry.close("the end")

        for client in clients:
            assert (await client.expect(Goaway)).message == "the end"
            assert await client.is_closed()


async def test_request_after_goodbye(certs: Certificates) -> None:
    """What is under way when the server ends does not outlive the connection."""
    held = Held()
    handlers: Handlers = {InfoRequest: held}

    async with serving(certs, handlers=handlers) as server, Peers() as peers:
        client = await peers.connect(server, certs)
        client.flush(InfoRequest(1))
        await until(lambda: held.calls, what="the call")
        await server.registry.close("the end")

        await until(lambda: held.cancelled == [1], what="its end")


async def test_full_server(certs: Certificates) -> None:
    """More connections than allowed are refused with words; others go on."""
    async with serving(certs, connections=1) as server, Peers() as peers:
        first = await peers.connect(server, certs)
        second = await peers.connect(server, certs, greet=False)

        assert "try again later" in (await second.refusal()).message
        await greeted(first)


async def test_lost_connection(certs: Certificates) -> None:
    """The requests of a client that has gone end, and so does its session."""
    held = Held()

    async with serving(certs, handlers={InfoRequest: held}) as server, Peers() as peers:
        client = await peers.connect(server, certs)
        client.flush(*map(InfoRequest, range(5)))
        await until(lambda: len(held.calls) == 5, what="the calls")
        await client.leave()
        await until(lambda: not server.sessions, what="the session's end")
        await until(lambda: len(held.cancelled) == 5, what="the calls' end")


@pytest.mark.parametrize("request_", [InfoRequest(4), WaitRequest(4, "job")])
async def test_cancel(certs: Certificates, request_: Request) -> None:
    """A cancelled request is answered, once, and its id is free again."""
    held = Held()
    handlers: Handlers = {type(request_): held}

    async with serving(certs, handlers=handlers) as server, Peers() as peers:
        client = await peers.connect(server, certs)
        client.flush(request_)
        await until(lambda: held.calls, what="the call")
        client.flush(Cancel(4), Cancel(4))
        response = await client.expect(ErrorResponse)
        client.flush(request_)
        await until(lambda: len(held.calls) == 2, what="the second call")

        assert error_of(response) == (4, "cancelled")
        assert held.cancelled == [4]
        await greeted(client)


async def test_cancel_in_the_same_breath(certs: Certificates) -> None:
    """A cancel that comes with its request finds it, and is answered."""
    held = Held()
    spec = JobSpec((b"true",))
    handlers: Handlers = {InfoRequest: held, RunRequest: held}

    async with serving(certs, handlers=handlers) as server, Peers() as peers:
        client = await peers.connect(server, certs)
        client.flush(InfoRequest(1), Cancel(1), RunRequest(2, "r", spec), Cancel(2))
        answers = {error_of(await client.expect(ErrorResponse)) for _ in range(2)}

        assert answers == {(1, "cancelled"), (2, "cancelled")}


async def test_cancel_of_what_is_answered(certs: Certificates) -> None:
    """A cancel that crosses the response is void."""
    async with (
        serving(certs, handlers={InfoRequest: at_once}) as server,
        Peers() as peers,
    ):
        client = await peers.connect(server, certs)
        await client.ask(InfoRequest(1), InfoResponse)
        client.writer.write(pack({"type": "cancel", "id": 1}))

        await client.ask(InfoRequest(1), InfoResponse)


async def test_id_again_at_once(certs: Certificates) -> None:
    """An id may be used again as soon as its response is there."""
    async with (
        serving(certs, handlers={InfoRequest: at_once}) as server,
        Peers() as peers,
    ):
        client = await peers.connect(server, certs)

        for _ in range(200):
            assert (await client.ask(InfoRequest(1), InfoResponse)).id == 1

        await until(lambda: not server.session()._requests, what="nothing under way")


async def test_id_in_use(certs: Certificates) -> None:
    """An id that waits for its response must not be used again."""
    async with (
        serving(certs, handlers={InfoRequest: Held()}) as server,
        Peers() as peers,
    ):
        client = await peers.connect(server, certs)
        client.flush(InfoRequest(1))
        client.writer.write(pack({"type": "info", "id": 1}))
        error = await client.refusal()

        assert "request id 1 is in use" in error.message


async def test_too_many_requests(certs: Certificates) -> None:
    """A client that asks more than it may is closed."""
    held = Held()

    async with serving(certs, handlers={InfoRequest: held}) as server, Peers() as peers:
        client = await peers.connect(server, certs)
        client.writer.write(
            b"".join(pack({"type": "info", "id": n}) for n in range(257))
        )
        error = await client.refusal()

        assert "more than 256 requests" in error.message
        assert len(held.calls) <= 256


async def test_answers_that_nobody_takes(certs: Certificates) -> None:
    """For a client that asks a lot and does not read, no more than one is made."""

    async def big(service: Service, call: Call, request: Any) -> Message:
        raise JobNotFound("x" * 16_000)

    async with serving(certs, handlers={InfoRequest: big}) as server, Peers() as peers:
        client = await peers.connect(server, certs)
        await greeted(client)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # as above
        session = server.session()
        await ask_until_slow(client, server)

        for _ in range(400):
            await asyncio.sleep(0)
            assert server.buffered() < session._config.output.send_buffer + 20_000

        assert session._requests


async def test_slow_client_is_not_silent(
    certs: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """Who takes long to read is not dropped for a silence that is ours."""
    settings: dict[str, Any] = {"ping_interval": 0.1, "ping_timeout": 0.3}

    async def flood(service: Service, call: Call, request: Any) -> Message:
        return answer_to(call, version="x" * 250)

    handlers: Handlers = {InfoRequest: flood}

    async with (
        serving(certs, handlers=handlers, **settings) as server,
        Peers() as peers,
    ):
        client = await peers.connect(server, certs)
        await greeted(client)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # as above
        session = server.session()
        await ask_until_slow(client, server)
        await asyncio.sleep(1)
        assert not session.is_lost
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
        reading = asyncio.create_task(swallow(client.reader))
        await until(session._writable.is_set, what="room again")

        assert not session.is_lost
        reading.cancel()


async def swallow(reader: asyncio.StreamReader) -> None:
    """Read on and on."""
    while await reader.read(1 << 20):
        continue


async def test_hello_twice(certs: Certificates) -> None:
    """A second hello is a broken rule."""
    async with serving(certs) as server, Peers() as peers:
        client = await peers.connect(server, certs)
        client.writer.write(pack({"type": "hello", "version": 1, "agent": "again"}))

        assert "a second hello" in (await client.refusal()).message


async def test_invalid_value(certs: Certificates) -> None:
    """A request whose values cannot be is answered, and the connection goes on."""
    async with (
        serving(certs, handlers={InfoRequest: at_once}) as server,
        Peers() as peers,
    ):
        client = await peers.connect(server, certs)
        request = RunRequest(3, "r", JobSpec((b"true",)))
        client.connection.send(request)
        client.connection.data_to_send()
        client.writer.write(
            pack(
                {
                    "type": "run",
                    "id": 3,
                    "request_id": "r",
                    "spec": {"command": [b"a\0b"], "limits": {}},
                }
            )
        )

        assert error_of(await client.expect(ErrorResponse)) == (3, "invalid_request")
        await client.ask(InfoRequest(3), InfoResponse)


async def test_two_names(certs: Certificates) -> None:
    """Each session knows who it is for."""
    async with (
        serving(certs, handlers={InfoRequest: at_once}) as server,
        Peers() as peers,
    ):
        alice = await peers.connect(server, certs)
        bob = await peers.connect(server, certs, "bob", greet=False)
        hello = await bob.expect(ServerHello)

        assert hello.name == "bob"
        assert (await alice.ask(InfoRequest(1), InfoResponse)).name == "alice"
        assert (await bob.ask(InfoRequest(1), InfoResponse)).name == "bob"
