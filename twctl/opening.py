"""Opens a session: name, address, TLS, hello, each with its own time."""

import asyncio
import socket
import ssl

from teleworkerd.protocol.errors import ConnectionClosed
from twctl.conduct import CONNECT_TIMEOUT, HELLO_TIMEOUT, prepare_socket
from twctl.profile import Profile
from twctl.session import CLOSE_TIMEOUT, Session
from twctl.tls import check_server, refusal


async def open_session(profile: Profile, context: ssl.SSLContext) -> Session:
    """Connect, and return when the server has said hello.

    Raises `ConnectionClosed`, as `ConnectionRejected` where trying again is
    useless, or `Unavailable`; the message says what to do.
    """
    loop = asyncio.get_running_loop()

    try:
        sock = await _connect(profile)
        _, session = await loop.create_connection(
            lambda: Session(profile.address),
            sock=sock,
            ssl=context,
            server_hostname=profile.host,
            ssl_handshake_timeout=CONNECT_TIMEOUT,
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
        raise ConnectionClosed(
            f"{profile.address}: connected, but no word from the server within"
            f" {HELLO_TIMEOUT:.0f} s"
        ) from error
    except ConnectionClosed as error:
        raise refusal(error.__cause__, profile) from error.__cause__


async def _connect(profile: Profile) -> socket.socket:
    loop = asyncio.get_running_loop()
    error: OSError = OSError("the host name has no address")

    async with asyncio.timeout(CONNECT_TIMEOUT):
        addresses = await loop.getaddrinfo(
            profile.host, profile.port, type=socket.SOCK_STREAM
        )

        for family, kind, number, _, address in addresses:
            sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, number)

            try:
                prepare_socket(sock)
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
