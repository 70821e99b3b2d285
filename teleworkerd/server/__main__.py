"""`python -m teleworkerd.server CHANNEL [LISTENER...]`: how the keeper starts it.

The arguments are descriptors: its end of the socket pair, and the sockets that
listen for clients.
"""

import asyncio
import socket
import sys

import uvloop

from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.memory import expect_chunks
from teleworkerd.server.app import serve


def main() -> int:
    """Serve until the keeper says otherwise; return the exit status."""
    channel, *listeners = (socket.socket(fileno=int(fd)) for fd in sys.argv[1:])
    expect_chunks()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(channel, listeners))
    except (TeleworkerError, TimeoutError) as error:
        sys.stderr.write(f"teleworkerd: error: {error}\n")
        return 1

    return 0


if __name__ == "__main__":
    sys.exit(main())
