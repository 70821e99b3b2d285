"""Opens a session: name, address, TLS, hello, each with its own time."""

import asyncio
import socket
import ssl
from contextlib import suppress

from teleworkerd.protocol.errors import ConnectionClosed
from twctl.conduct import CONNECT_TIMEOUT, HELLO_TIMEOUT, prepare_socket
from twctl.lookup import Addresses, attempts, begin_lookup, too_late
from twctl.profile import Profile
from twctl.session import CLOSE_TIMEOUT, Session
from twctl.tls import check_server, refusal, silence


async def open_session(profile: Profile, context: ssl.SSLContext) -> Session:
    """Connect, and return when the server has said hello.

    Raises `ConnectionClosed`, as `ConnectionRejected` where trying again is
    useless, or `Unavailable`; the message says what to do.
    """
    loop = asyncio.get_running_loop()

    try:
        sock = await _connect(profile)

        # The loop's own time would end it as if the server had hung up.
        async with asyncio.timeout(CONNECT_TIMEOUT):
            _, session = await loop.create_connection(
                lambda: Session(profile.address),
                sock=sock,
                ssl=context,
                server_hostname=profile.host,
                ssl_handshake_timeout=2 * CONNECT_TIMEOUT,
                ssl_shutdown_timeout=CLOSE_TIMEOUT,
            )
    except ssl.SSLCertVerificationError as error:
        raise await asyncio.to_thread(refusal, error, profile) from error
    except OSError as error:
        raise refusal(error, profile) from error

    try:
        await _greet(session, profile)
    except BaseException:
        session.abort()
        raise

    return session


async def _greet(session: Session, profile: Profile) -> None:
    check_server(session.alpn, session.certificate, profile)

    try:
        async with asyncio.timeout(HELLO_TIMEOUT):
            await session.greeted
    except TimeoutError as error:
        raise silence(profile) from error
    except ConnectionClosed as error:
        raise refusal(error.__cause__, profile) from error.__cause__


async def _connect(profile: Profile) -> socket.socket:
    loop = asyncio.get_running_loop()
    addresses = await _look_up(profile)
    error: OSError = OSError("the host name has no address")

    for (family, kind, number, _, address), seconds in attempts(addresses):
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, number)

        try:
            prepare_socket(sock)

            async with asyncio.timeout(seconds):
                await loop.sock_connect(sock, address)
        except OSError as refused:
            sock.close()
            error = refused
        except BaseException:
            sock.close()
            raise
        else:
            return sock

    raise error


async def _look_up(profile: Profile) -> Addresses:
    loop = asyncio.get_running_loop()
    found: asyncio.Future[Addresses] = loop.create_future()

    def settle(result: Addresses | OSError) -> None:
        if found.done():
            return

        if isinstance(result, OSError):
            found.set_exception(result)
        else:
            found.set_result(result)

    def done(result: Addresses | OSError) -> None:
        with suppress(RuntimeError):  # the loop is closed by now
            loop.call_soon_threadsafe(settle, result)

    begin_lookup(profile, done)

    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            return await found
    except TimeoutError as error:
        raise too_late() from error
