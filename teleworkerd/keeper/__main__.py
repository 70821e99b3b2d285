"""`python -m teleworkerd.keeper CHANNEL CONFIG`: a keeper for one owner.

CHANNEL is the descriptor of its end of a socket pair, CONFIG the configuration
as JSON. It ends, and all jobs with it, when the other end is closed. The daemon
does not start it so: there the keeper is the parent.
"""

import asyncio
import json
import signal
import socket
import sys

from teleworkerd.cgroups.detect import open_driver
from teleworkerd.config import Config, parse
from teleworkerd.keeper.keeper import Keeper
from teleworkerd.keeper.orphans import use_pidfds
from teleworkerd.keeper.state_dir import StateDirectory
from teleworkerd.log import set_up
from teleworkerd.protocol.errors import TeleworkerError


async def keep(config: Config, channel: socket.socket) -> None:
    """Keep jobs until the other end of *channel* is closed."""
    keeper = Keeper(config, open_driver())
    keeper.orphans.adopt()
    await keeper.clear_leftovers()
    await keeper.connect(channel)
    await keeper.disconnected.wait()
    await keeper.close()


def main() -> int:
    """Keep jobs; return the exit status."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    # Ctrl-C is for the owner, who then closes the channel.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    try:
        config = parse(json.loads(sys.argv[2]))
        set_up(level=config.daemon.log_level, form=config.daemon.log_format)
        StateDirectory(config)
        use_pidfds()
        asyncio.run(keep(config, channel))
    except TeleworkerError as error:
        sys.stderr.write(f"keeper: error: {error}\n")
        return 1

    return 0


if __name__ == "__main__":
    sys.exit(main())
