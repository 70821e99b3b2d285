"""The server's end of the channel to the keeper."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from teleworkerd.config import Config
from teleworkerd.executors.local import LocalExecutor
from teleworkerd.keeper.channel import Channel
from teleworkerd.keeper.messages import (
    FROM_KEEPER,
    KeptJob,
    KeptJobs,
    Leave,
    Probe,
    Reload,
    Shutdown,
    Welcome,
)
from teleworkerd.keeper.orders import Alive, Noted, Ready, Reloaded
from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.messages import Message


WELCOME_TIMEOUT: Final = 30.0  # seconds; the keeper is on this machine


class KeeperGone(TeleworkerError):
    """The keeper ended before it said anything."""


class KeeperLink:
    """Makes the executor of the keeper at the other end.

    `executor` is there once `welcome` has returned; `over` is set when the keeper
    asks for the end, or is gone; `gone` is set then alone, and `is_leaving` says
    that jobs are to go on. `reload`, if somebody sets it, is called with each new
    configuration; it uses all of that, or returns why it uses nothing.
    `keeper_open_files` is how many descriptors the keeper said that it has.
    *state_dir* is the state directory as this process sees it, if not as the keeper
    does.
    """

    def __init__(self, state_dir: str | None = None) -> None:
        self.executor: LocalExecutor
        self.reload: Callable[[Config], str | None] = _too_early
        self.is_leaving = False
        self.keeper_open_files = 0
        self.over = asyncio.Event()
        self.gone = asyncio.Event()
        self._state_dir = state_dir
        self._kept: list[KeptJob] = []
        self._welcome: asyncio.Future[Welcome] = (
            asyncio.get_running_loop().create_future()
        )
        self._channel = Channel(
            FROM_KEEPER, received=self._received, closed=self._closed
        )

    async def welcome(self, sock: socket.socket) -> Welcome:
        """Connect by *sock*, one end of a pair; return what the keeper says.

        Raises `KeeperGone` when it says nothing.
        """
        await self._channel.open(sock)

        try:
            async with asyncio.timeout(WELCOME_TIMEOUT):
                return await asyncio.shield(self._welcome)
        except TimeoutError:
            raise KeeperGone(
                f"the keeper said nothing for {WELCOME_TIMEOUT:g} s; see its log"
            ) from None

    def ready(self) -> None:
        """Tell the keeper that clients may come."""
        self._channel.send(Ready())

    def note(self, note: Noted) -> None:
        """Have the keeper write *note* to the audit log."""
        self._channel.send(note)

    def close(self) -> None:
        """End the connection, and so the keeper's service."""
        self._channel.close()

    def _received(self, message: Message) -> None:
        match message:
            case KeptJobs(jobs):
                self._kept += jobs
            case Welcome():
                config = self._localized(message.config)
                # At once: what comes next is for the executor.
                self.executor = LocalExecutor(
                    self._channel, config.jobs_dir, (*self._kept, *message.jobs)
                )
                self._welcome.set_result(replace(message, config=config))
            case Reload(config):
                error = self.reload(self._localized(config))
                self._channel.send(Reloaded(error))
            case Probe(number, open_files):
                self.keeper_open_files = open_files
                self._channel.send(Alive(number))
            case Leave():
                self.is_leaving = True
                self.over.set()
            case Shutdown():
                self.over.set()
            case _:
                self.executor.received(message)

    def _localized(self, config: Config) -> Config:
        if self._state_dir is None:
            return config

        daemon = replace(config.daemon, state_dir=self._state_dir)
        return replace(config, daemon=daemon)

    def _closed(self) -> None:
        self.gone.set()
        self.over.set()

        if self._welcome.done():
            self.executor.disconnected()
        else:
            self._welcome.set_exception(KeeperGone("the keeper is gone"))
            # Who waited may have given up.
            self._welcome.exception()


def _too_early(_: Config) -> str | None:
    return "the server is not ready yet"
