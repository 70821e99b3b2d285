"""How many connections there may be, whose they may be, and who has to go."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from teleworkerd.config import Config
from teleworkerd.counters import Dismissal, Refusal
from teleworkerd.protocol.codec import pack
from teleworkerd.protocol.errors import (
    PermissionDenied,
    RequestError,
    TooMany,
    Unavailable,
)
from teleworkerd.protocol.messages import (
    Cancel,
    InfoRequest,
    InterleaveRequest,
    OutputRequest,
    Request,
)
from teleworkerd.protocol.responses import (
    ErrorResponse,
    InfoResponse,
    ServerHello,
)
from teleworkerd.server.auth import Principal
from teleworkerd.server.handlers import Handler
from teleworkerd.settings import AccessConfig, ClientsConfig
from tests.e2e.pki import Certificates, issue
from tests.server.peers import (
    Client,
    Peers,
    Server,
    client_context,
    error_of,
    serving,
    until,
)
from tests.server.test_session import Held, at_once


ADMIN = Config(access=AccessConfig(admin=("bob",)))


async def refusal_of(
    peers: Peers, server: Server, certs: Certificates, name: str = "alice"
) -> RequestError:
    """Return with what *name* is refused."""
    client = await peers.connect(server, certs, name, greet=False)
    error = await client.refusal()
    assert await client.is_closed()
    return error


async def works(client: Client) -> bool:
    """Whether the server answers the client."""
    return bool(await client.ask(InfoRequest(99), InfoResponse))


async def test_connections_of_one_name(certs: Certificates) -> None:
    """One more than a name may have is refused with how many; others come in."""
    config = Config(clients=ClientsConfig(connections=2))
    handlers: dict[type[Request], Handler] = {InfoRequest: at_once}

    async with (
        serving(certs, config, handlers=handlers) as server,
        Peers() as peers,
    ):
        first, _ = [await peers.connect(server, certs) for _ in range(2)]
        error = await refusal_of(peers, server, certs)
        await peers.connect(server, certs, "bob")

        assert isinstance(error, TooMany)
        assert error.details == {"what": "connections", "most": 2, "retry_after": 5}
        assert "as many connections as one name may, 2;" in error.message
        assert server.counters.refusals[Refusal.CROWDED] == 1
        assert await works(first)


async def test_connection_is_free_again(certs: Certificates) -> None:
    """When one of them ends there is room for the next."""
    config = Config(clients=ClientsConfig(connections=1))

    async with serving(certs, config) as server, Peers() as peers:
        for _ in range(3):
            client = await peers.connect(server, certs)
            await client.leave()
            await until(lambda: not server.sessions, what="its end")

    assert server.registry._by_name == {}


async def test_admin_has_no_bound_of_its_own(certs: Certificates) -> None:
    """An admin may have more connections than others."""
    config = replace(ADMIN, clients=ClientsConfig(connections=1))

    async with serving(certs, config) as server, Peers() as peers:
        for _ in range(3):
            await peers.connect(server, certs, "bob")

        assert len(server.sessions) == 3


async def test_reserved_for_admins(certs: Certificates) -> None:
    """When all is full for others, an admin still gets in; then nobody does."""
    settings: dict[str, Any] = {"connections": 4, "reserved": 2}

    async with serving(certs, ADMIN, **settings) as server, Peers() as peers:
        for _ in range(2):
            await peers.connect(server, certs)

        full = await refusal_of(peers, server, certs)

        for _ in range(2):
            await peers.connect(server, certs, "bob")

        fuller = await refusal_of(peers, server, certs, "bob")

    assert isinstance(full, Unavailable)
    assert "the server has 2 connections" in full.message
    assert isinstance(fuller, Unavailable)
    assert "the server has 4 connections" in fuller.message
    assert fuller.details == {"retry_after": 5}


@pytest.mark.slow
async def test_refused_do_not_count(certs: Certificates) -> None:
    """Who is refused and does not go takes no place, and a few stay at most."""
    config = Config(clients=ClientsConfig(connections=1))
    settings: dict[str, Any] = {"connections": 40, "close_timeout": 30.0}

    async with serving(certs, config, **settings) as server, Peers() as peers:
        await peers.connect(server, certs)
        stubborn = []

        for _ in range(70):
            client = await peers.connect(server, certs, greet=False)
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads, too
            stubborn.append(client)

        await until(lambda: len(server.sessions) <= 65, what="the end of the oldest")
        await peers.connect(server, certs, "bob")

        # They have to be gone before the server closes, which waits for them.
        for client in stubborn:
            await client.leave()

        await until(lambda: len(server.sessions) == 2, what="their end")


async def test_denied(certs: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    """A name that is denied is told so, whatever its certificate."""
    config = Config(access=AccessConfig(deny=("al*",)))

    async with serving(certs, config) as server, Peers() as peers:
        error = await refusal_of(peers, server, certs)
        await peers.connect(server, certs, "bob")

    assert isinstance(error, PermissionDenied)
    assert error.message == "alice is not admitted here"
    assert "alice is not admitted here" in caplog.text
    assert server.counters.refusals[Refusal.ACCESS] == 1


async def test_identity_is_no_matter_of_access(
    certs: Certificates, tmp_path: Path
) -> None:
    """A certificate that names nobody is refused for that."""
    odd = issue(certs, "/CN=a b", into=tmp_path / "odd")

    async with serving(certs) as server, Peers() as peers:
        context = client_context(certs, odd)
        client = await peers.connect(server, certs, context=context, greet=False)
        await client.refusal()

    assert server.counters.refusals[Refusal.IDENTITY] == 1


async def test_reload(certs: Certificates) -> None:
    """New bounds hold for who comes then."""
    async with serving(certs) as server, Peers() as peers:
        await peers.connect(server, certs)
        config = replace(server.config, clients=ClientsConfig(connections=1))
        server.registry.configure(config)

        assert isinstance(await refusal_of(peers, server, certs), TooMany)


def not_alice(principal: Principal) -> RequestError | None:
    """Let alice stay no longer."""
    is_alice = principal.name == "alice"
    return PermissionDenied("alice is revoked") if is_alice else None


async def test_recheck(certs: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever is not trusted any more is told why and closed; others stay."""
    handlers: dict[type[Request], Handler] = {InfoRequest: at_once}

    async with serving(certs, handlers=handlers) as server, Peers() as peers:
        alices = [await peers.connect(server, certs) for _ in range(2)]
        bob = await peers.connect(server, certs, "bob")

        for client in (*alices, bob):
            assert await works(client)

        server.registry.recheck(not_alice)

        for client in alices:
            assert (await client.refusal()).message == "alice is revoked"
            assert await client.is_closed()

        assert await works(bob)

    assert server.counters.dismissals[Dismissal.ACCESS] == 2
    assert "has to go: alice is revoked" in caplog.text


async def test_recheck_before_the_hello(certs: Certificates) -> None:
    """Also a client that has not answered the server's hello has to go."""
    async with serving(certs) as server, Peers() as peers:
        client = await peers.connect(server, certs, greet=False)
        await until(lambda: server.sessions, what="the session")
        server.registry.recheck(not_alice)

        assert (await client.refusal()).message == "alice is revoked"


async def test_recheck_during_the_handshake(certs: Certificates) -> None:
    """Who began to shake hands before is judged as soon as it is there."""
    async with serving(certs) as server, Peers() as peers:
        server.registry.recheck(not_alice)
        error = await refusal_of(peers, server, certs)
        client = await peers.connect(server, certs, "bob", greet=False)
        await client.expect(ServerHello)

    assert error.message == "alice is revoked"


@pytest.mark.parametrize(
    "request_",
    [
        OutputRequest(3, "job", follow=True, credit=1),
        InterleaveRequest(3, "job", follow=True, credit=1),
    ],
)
async def test_followers(certs: Certificates, request_: Request) -> None:
    """A name may follow so many streams, over all its connections; others their own."""
    held = Held()
    config = Config(clients=ClientsConfig(followers=2))
    handlers: dict[type[Request], Handler] = {type(request_): held}

    async with (
        serving(certs, config, handlers=handlers) as server,
        Peers() as peers,
    ):
        first, second = [await peers.connect(server, certs) for _ in range(2)]
        bob = await peers.connect(server, certs, "bob")
        first.flush(request_)
        second.flush(request_)
        bob.flush(request_)
        await until(lambda: len(held.calls) == 3, what="the followers")
        again = replace(request_, id=4)
        error = await second.ask(again, ErrorResponse)

        assert error_of(error) == (4, "too_many")
        assert error.details == {"what": "followers", "most": 2}
        assert server.counters.requests[request_.type, "too_many"] == 1

        first.flush(Cancel(3))
        await first.expect(ErrorResponse)
        await until(lambda: server.registry._followers["alice"] == 1, what="room")
        second.flush(again)
        await until(lambda: len(held.calls) == 4, what="another follower")

    assert server.registry._followers == {}


async def test_who_does_not_follow(certs: Certificates) -> None:
    """To read what there is does not count."""
    held = Held()
    config = Config(clients=ClientsConfig(followers=1))

    async with (
        serving(certs, config, handlers={OutputRequest: held}) as server,
        Peers() as peers,
    ):
        client = await peers.connect(server, certs)
        client.flush(*(OutputRequest(number, "job") for number in range(5)))
        await until(lambda: len(held.calls) == 5, what="the readers")


async def test_followers_of_who_has_gone(certs: Certificates) -> None:
    """A connection that is lost follows nothing any more."""
    held = Held()
    config = Config(clients=ClientsConfig(followers=1))
    request = OutputRequest(3, "job", follow=True)

    async with (
        serving(certs, config, handlers={OutputRequest: held}) as server,
        Peers() as peers,
    ):
        for count in (1, 2):
            client = await peers.connect(server, certs)
            client.flush(request)
            await until(lambda count=count: len(held.calls) == count, what="the call")  # type: ignore[misc]  # a lambda with a default
            await client.leave()
            await until(lambda: not server.sessions, what="the end")
            await until(lambda: not server.registry._followers, what="room")


async def test_flood_of_refused_requests(certs: Certificates) -> None:
    """What is refused is not in flight: a client may ask again at once."""
    config = Config(clients=ClientsConfig(followers=1))

    async with (
        serving(certs, config, handlers={OutputRequest: Held()}) as server,
        Peers() as peers,
    ):
        client = await peers.connect(server, certs)
        client.flush(OutputRequest(1, "job", follow=True))
        refused = pack({"type": "output", "id": 2, "job": "job", "follow": True})

        for _ in range(3):
            client.writer.write(refused * 300)
            data = b""

            async with asyncio.timeout(10):
                while data.count(b"too_many") < 300:
                    data += await client.reader.read(1 << 16)

        assert not server.session().is_lost
