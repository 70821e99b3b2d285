"""What one name asks at once does not hold up others."""

import asyncio
from typing import Any

from teleworkerd.protocol.codec import pack
from teleworkerd.protocol.messages import InfoRequest, Message, Request
from teleworkerd.protocol.responses import InfoResponse
from teleworkerd.server.handlers import Call, Handler, Service
from teleworkerd.server.turns import Turns
from tests.e2e.pki import Certificates
from tests.server.peers import Peers, serving


AT_ONCE = 200


async def begin(turns: Turns, name: str, count: int, begun: list[str]) -> None:
    """Have *count* requests of *name* begin, all at once."""

    async def one() -> None:
        await turns.wait(name)
        begun.append(name)

    await asyncio.gather(*(one() for _ in range(count)))


async def test_one_of_each() -> None:
    """Who comes later has a turn as soon as who asked for many before."""
    turns, begun = Turns(), list[str]()
    many = asyncio.create_task(begin(turns, "alice", 50, begun))
    few = asyncio.create_task(begin(turns, "bob", 3, begun))
    await asyncio.gather(many, few)

    assert [*map(begun[:6].count, ("alice", "bob"))] == [3, 3]
    assert begun[6:] == ["alice"] * 47


async def test_cancelled() -> None:
    """Who waits no more keeps nobody of the same name waiting."""
    turns, begun = Turns(), list[str]()
    tasks = [asyncio.create_task(begin(turns, "alice", 1, begun)) for _ in range(5)]
    await asyncio.sleep(0)

    for task in tasks[1:4]:
        task.cancel()

    await asyncio.gather(*tasks, return_exceptions=True)

    assert begun == ["alice", "alice"]
    assert not turns._waiting


async def test_one_packet(certs: Certificates) -> None:
    """A client is answered while another has hundreds of things asked."""
    begun: list[str] = []

    async def count(service: Service, call: Call, request: Any) -> Message:
        begun.append(call.owner)
        return InfoResponse(call.id, "1", "x", 1, 1, 0, "none", {}, {}, 1, (0.0,))

    handlers: dict[type[Request], Handler] = {InfoRequest: count}

    async with serving(certs, handlers=handlers) as server, Peers() as peers:
        alice = await peers.connect(server, certs)
        bob = await peers.connect(server, certs, "bob")
        await alice.ask(InfoRequest(0), InfoResponse)
        ids = range(1, AT_ONCE)
        alice.writer.write(b"".join(pack({"type": "info", "id": n}) for n in ids))
        await bob.ask(InfoRequest(0), InfoResponse)

        assert begun.count("alice") < AT_ONCE / 2
