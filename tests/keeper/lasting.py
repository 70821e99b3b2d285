"""A keeper that outlives its servers, as the daemon's does."""

import json
import socket
import subprocess
import sys
from typing import Final

from teleworkerd.config import Config
from teleworkerd.keeper.messages import Welcome
from teleworkerd.protocol.fields import dump
from teleworkerd.protocol.framing import FrameDecoder
from teleworkerd.protocol.messages import Message
from tests.keeper.kept import ROOT, KeeperProcess


# A keeper that outlives its servers: each connects to a listening socket.
LASTING: Final = """
import asyncio, json, signal, socket, sys
{change}
from teleworkerd.cgroups.detect import detect
from teleworkerd.config import (parse)
from teleworkerd.keeper.keeper import Keeper
from teleworkerd.keeper.orphans import use_pidfds
from teleworkerd.keeper.state_dir import StateDirectory
from teleworkerd.log import set_up

async def keep(listener, config):
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ending.set)
    driver = detect()
    driver.prepare()
    keeper = Keeper(config, driver)
    keeper.orphans.adopt()
    await keeper.clear_leftovers()

    async def serve():
        while True:
            sock, _ = await loop.sock_accept(listener)
            await keeper.connect(sock)

    serving = asyncio.create_task(serve())
    await ending.wait()
    serving.cancel()
    await keeper.close()

config = parse(json.loads(sys.argv[2]))
set_up(level="info", form="text")
StateDirectory(config)
use_pidfds()
listener = socket.socket(fileno=int(sys.argv[1]))
listener.setblocking(False)
asyncio.run(keep(listener, config))
"""


class LastingKeeper(KeeperProcess):
    """A keeper to which one server after the other may connect."""

    def __init__(self, config: Config, *, change: str = "") -> None:
        self.config = config
        self.log = b""
        self._is_closed = False
        self._backlog: list[Message] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind("")  # the kernel chooses an abstract name
        self._listener.listen()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                LASTING.format(change=change),
                str(self._listener.fileno()),
                json.dumps(dump(config)),
            ],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(self._listener.fileno(),),
            cwd=ROOT,
        )
        self._connect()

    def close(self, *, bug: bool = False) -> str:
        """End the keeper and so its jobs; return what it wrote to its log."""
        self._listener.close()
        self.process.terminate()
        return super().close(bug=bug)

    def replace_server(self) -> list[Message]:
        """Die as a server, come back as another; return what the first missed."""
        missed, self._backlog = self._backlog, []
        self._sock.close()
        self._connect()
        return missed

    def _connect(self) -> None:
        self._decoder = FrameDecoder()
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(self._listener.getsockname())
        self.welcome = self.expect(Welcome)
