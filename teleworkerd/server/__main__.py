"""`python -m teleworkerd.server VERSION CHANNEL FILES [LISTENER...]`: its start.

VERSION is the keeper's. The others are descriptors: two of socket pairs, for messages
and for the certificate files, and the sockets that listen for clients. The working
directory is the state directory, which may be out of the reach of our account.
"""

import asyncio
import faulthandler
import logging
import signal
import socket
import sys

import uvloop

from teleworkerd import __version__
from teleworkerd.keeper.syscalls import own_session_keyring
from teleworkerd.privilege_drop import gain_nothing
from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.memory import expect_chunks
from teleworkerd.server.app import serve
from teleworkerd.spare import lack_of


log = logging.getLogger("teleworkerd.server")


class OtherVersion(TeleworkerError):
    """The program was replaced, and the keeper still runs the old one."""


def main() -> int:
    """Serve until the keeper says otherwise; return the exit status."""
    _, version, *descriptors = sys.argv
    expect_chunks()
    faulthandler.register(signal.SIGQUIT)

    gain_nothing()
    own_session_keyring()

    try:
        _check(version)
        channel, files, *listeners = (
            socket.socket(fileno=int(fd)) for fd in descriptors
        )

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(channel, files, listeners, state_dir="."))
    except (TeleworkerError, OSError, MemoryError) as error:
        # Before anything is set up, that goes to stderr as it is.
        log.error("cannot serve: %s", lack_of(error) or error)
        return 1

    return 0


def _check(version: str) -> None:
    """Raise `OtherVersion` unless the keeper, of *version*, is one of ours."""
    if version != __version__:
        raise OtherVersion(
            f"the keeper runs {version}, this server is {__version__};"
            " restart the daemon when its jobs are over"
        )


if __name__ == "__main__":
    sys.exit(main())
