"""Both ends of a real TLS connection on loopback, on one loop."""

import asyncio
import contextlib
import itertools
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any, Final, TypeVar

from teleworkerd.certfiles import read_files
from teleworkerd.config import Config
from teleworkerd.counters import Counters
from teleworkerd.execution import Caller
from teleworkerd.protocol.codec import pack
from teleworkerd.protocol.connection import ClientConnection
from teleworkerd.protocol.errors import RequestError
from teleworkerd.protocol.messages import ALPN, Message, Request
from teleworkerd.protocol.responses import ErrorResponse, ServerHello
from teleworkerd.server.dispatch import Dispatcher
from teleworkerd.server.handlers import HANDLERS, Handler, Service
from teleworkerd.server.listener import Listener
from teleworkerd.server.refusals import Refusals
from teleworkerd.server.session import Session
from teleworkerd.server.sessions import SessionRegistry
from teleworkerd.server.tls import server_context
from tests.e2e.pki import Certificates, Identity


M = TypeVar("M", bound=Message)

AT_ONCE: Final = 200  # requests, less than a client may have under way
DEADLINE: Final = 10.0  # seconds; what it bounds takes milliseconds on an idle host


async def until(condition: Callable[[], object], *, what: str) -> None:
    """Wait until *condition* holds; fail with *what* when that takes too long."""
    end = asyncio.get_running_loop().time() + DEADLINE

    while not condition():
        assert asyncio.get_running_loop().time() < end, f"not in time: {what}"
        await asyncio.sleep(0.005)


def descriptors() -> set[str]:
    """Return the numbers of the open descriptors of this process."""
    listing = os.open("/proc/self/fd", os.O_RDONLY)

    try:
        return set(os.listdir(listing)) - {str(listing)}  # noqa: PTH208  by descriptor
    finally:
        os.close(listing)


def client_context(certs: Certificates, identity: Identity | None) -> ssl.SSLContext:
    """Return a client's context with the certificate of *identity*, if any."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=certs.ca)
    context.set_alpn_protocols([ALPN])

    if identity is not None:
        context.load_cert_chain(identity.cert, identity.key)

    return context


class Server:
    """A listener and its sessions."""

    def __init__(self, registry: SessionRegistry, port: int) -> None:
        self.registry = registry
        self.port = port
        self.config: Config
        self.listener: Listener
        self.counters: Counters
        self.noted: list[tuple[Caller, str, int]]

    @property
    def sessions(self) -> list[Session]:
        """The sessions that there are."""
        return list(self.registry._sessions)

    def session(self) -> Session:
        """Return the only session."""
        (session,) = self.registry._sessions
        return session

    def buffered(self) -> int:
        """Return how many bytes wait in this process for the only client."""
        return self.session()._transport.get_write_buffer_size()


@asynccontextmanager
async def serving(
    certs: Certificates,
    config: Config | None = None,
    *,
    service: Service | None = None,
    handlers: Mapping[type[Request], Handler] = HANDLERS,
    host: str = "127.0.0.1",
    period: float = 60.0,
    **settings: Any,
) -> AsyncIterator[Server]:
    """Serve on loopback; *settings* are those of `[server]`.

    Refusals that come again are summed up after *period* seconds.
    """
    config = config or Config()
    settings = {"close_timeout": 0.3, "handshake_timeout": 5.0, **settings}
    config = replace(config, server=replace(config.server, **settings))
    counters = Counters() if service is None else service.counters
    dispatcher = Dispatcher(service, counters, handlers)  # type: ignore[arg-type]  # None where no handler looks at it
    noted: list[tuple[Caller, str, int]] = []
    refusals = Refusals(
        counters, noted=lambda *facts: noted.append(facts), period=period
    )
    registry = SessionRegistry(config, dispatcher, counters, refusals)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET

    with socket.socket(family) as listening:
        if family is socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)

        listening.bind((host, 0))
        listening.listen(1024)
        server = Server(registry, listening.getsockname()[1])
        context = server_context(read_files(certs.directory))
        server.config = config
        server.counters = counters
        server.noted = noted
        server.listener = Listener(
            [listening],
            context,
            registry.create,
            config.server,
            refusals,
        )
        server.listener.start()

        try:
            yield server
        finally:
            await server.listener.close()

            async with asyncio.timeout(DEADLINE):
                await registry.close("the test is over")


class Client:
    """A client that does what it is told, and keeps to the protocol."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.connection = ClientConnection(agent="test")
        self._arrived: list[Message] = []

    def flush(self, *messages: Message) -> None:
        """Send *messages* in one piece, with what the protocol has to say."""
        for message in messages:
            self.connection.send(message)

        self.writer.write(b"".join(self.connection.data_to_send()))

    async def receive(self) -> Message:
        """Return the next message; raises `EOFError` at the end."""
        async with asyncio.timeout(DEADLINE):
            while not self._arrived:
                data = await self.reader.read(1 << 16)

                if not data:
                    raise EOFError

                self.connection.receive_data(data)
                self._arrived += self.connection.events()
                self.flush()

        return self._arrived.pop(0)

    async def expect(self, kind: type[M]) -> M:
        """Return the next message, which must be of *kind*."""
        message = await self.receive()
        assert isinstance(message, kind), message
        return message

    async def ask(self, request: Request, kind: type[M]) -> M:
        """Send *request*; return its response, which must be of *kind*."""
        self.flush(request)
        return await self.expect(kind)

    async def refusal(self) -> RequestError:
        """Return the error with which the server closes the connection."""
        try:
            while True:
                await self.receive()
        except RequestError as error:
            return error

    async def is_closed(self) -> bool:
        """Wait for the end of the connection; whether nothing came before it."""
        try:
            async with asyncio.timeout(DEADLINE):
                return not await self.reader.read(1)
        except (ConnectionError, ssl.SSLError):
            return True

    async def leave(self) -> None:
        """Be gone, without a word."""
        self.writer.transport.abort()

        with contextlib.suppress(OSError, ssl.SSLError):
            await self.writer.wait_closed()


class Peers(AsyncExitStack):
    """Clients that are gone at the end of the block."""

    async def connect(
        self,
        server: Server,
        certs: Certificates,
        name: str = "alice",
        *,
        context: ssl.SSLContext | None = None,
        greet: bool = True,
        source: str = "127.0.0.1",
    ) -> Client:
        """Return a client with the certificate of *name*, after the hellos."""
        context = context or client_context(certs, certs.of(name))
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            server.port,
            ssl=context,
            server_hostname="localhost",
            local_addr=(source, 0),
            limit=1 << 16,
        )
        client = Client(reader, writer)
        self.push_async_callback(client.leave)

        if greet:
            await client.expect(ServerHello)

        return client


def error_of(response: ErrorResponse) -> tuple[int | None, str]:
    """Return to which request an error belongs, and its code."""
    return response.id, response.code


async def ask_until_slow(client: Client, server: Server) -> None:
    """Ask many things at a time until an answer has to wait for the client."""
    session, requests = server.session(), server.counters.requests

    async def answered(count: int) -> None:
        await until(
            lambda: sum(requests.values()) >= count or not session._writable.is_set(),
            what="answers",
        )

    for first in itertools.count(0, AT_ONCE):
        ids = range(first, first + AT_ONCE)
        client.writer.write(b"".join(pack({"type": "info", "id": n}) for n in ids))
        await answered(first + AT_ONCE)

        if not session._writable.is_set():
            return
