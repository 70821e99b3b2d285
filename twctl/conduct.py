"""How our client behaves: what it calls itself, and how long it waits for whom."""

from typing import Final

from teleworkerd import __version__


AGENT: Final = f"twctl/{__version__}"

CONNECT_TIMEOUT: Final = 10.0  # seconds, for TCP and for TLS each
HELLO_TIMEOUT: Final = 10.0  # seconds until the server has to have spoken
PING_AFTER: Final = 15.0  # seconds of silence; keeps NAT entries alive as well
LOST_AFTER: Final = 40.0  # seconds of silence, so two pings without a response
