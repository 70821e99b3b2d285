"""The users, from their first connection to their last look at every job."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import twctl
from teleworkerd.protocol.types import Stream
from tests.chaos.board import Board, Known
from tests.chaos.history import History, Read
from tests.chaos.nemesis import Nemesis
from tests.chaos.plan import Fault
from tests.chaos.terminal import Terminal
from tests.chaos.user import User
from tests.e2e.commandline import settings
from tests.e2e.daemon import Daemon
from tests.e2e.proxy import Proxy


OWNERS: Final = ("alice", "bob")
USERS: Final = 4  # of each owner
PATIENCE: Final = 90.0  # seconds that everything may take to end, once it is healed
LONG: Final = 30.0  # seconds; what takes longer is ended


class Scene:
    """Everybody who uses one daemon, beyond *proxy*."""

    def __init__(
        self, daemon: Daemon, proxy: Proxy, board: Board, history: History
    ) -> None:
        self._daemon = daemon
        self._proxy = proxy
        self._board = board
        self._history = history
        self._users: list[User] = []

    async def play(
        self, nemesis: Nemesis, faults: Sequence[Sequence[Fault]]
    ) -> list[str]:
        """Live with the nemesis, then see everything to its end.

        Returns what there is to complain of, beside what stands in the history.
        """
        over = asyncio.Event()

        async with AsyncExitStack() as stack:
            for owner in OWNERS:
                for number in range(USERS):
                    user = await self._user(stack, owner, f"{owner}-{number}")
                    self._users.append(user)

            everybody: list[User | Terminal] = [*self._users]
            everybody += map(self._terminal, OWNERS)
            lives = [asyncio.create_task(each.live(over)) for each in everybody]

            try:
                await nemesis.run(faults)
                over.set()

                async with asyncio.timeout(PATIENCE):
                    await self._settle(lives)
                    await self._look_around()
                    await asyncio.to_thread(nemesis.restart)
                    await self._look_around()
            except TimeoutError:
                return [f"not all has ended {PATIENCE:g} s after all was well again"]
            finally:
                await _end(lives)

                for user in self._users:
                    await user.leave()

        return []

    async def _settle(self, lives: Sequence[asyncio.Task[None]]) -> None:
        """Find out what is not known, and wait for what was begun."""
        await asyncio.gather(*lives[: len(self._users)])
        await self._share(self._unsure(), _ask_again)
        await self._share(self._board.jobs.values(), _end_if_long)
        await asyncio.gather(*lives, *(user.finish() for user in self._users))

    async def _look_around(self) -> None:
        """Have each job looked at, and read, and each list."""
        there = [
            known
            for known in self._board.jobs.values()
            if known.job and not known.is_removed
        ]
        await self._share(there, _see_whole)
        await asyncio.gather(*(user.list_all() for user in self._users))

    async def _share(
        self,
        jobs: Iterable[Known],
        work: Callable[[User, Known], Coroutine[Any, Any, None]],
    ) -> None:
        """Do *work* for all *jobs*, each by one of its owner's users."""
        jobs = list(jobs)

        async def do(user: User, place: int) -> None:
            own = [known for known in jobs if known.owner == user.owner]

            for known in own[place::USERS]:
                await work(user, known)

        async with asyncio.TaskGroup() as group:
            for number, user in enumerate(self._users):
                group.create_task(do(user, number % USERS))

    def _unsure(self) -> Iterator[Known]:
        return (
            known
            for known in self._board.jobs.values()
            if known.job is None and not known.is_refused
        )

    async def _user(self, stack: AsyncExitStack, owner: str, name: str) -> User:
        certs = self._daemon.certs
        identity = certs.of(owner)
        client = await stack.enter_async_context(
            twctl.connect(
                self._proxy.address, ca=certs.ca, cert=identity.cert, key=identity.key
            )
        )
        return User(
            name,
            owner,
            client,
            board=self._board,
            history=self._history,
            dice=random.Random(f"{self._board.seed} {name}"),
        )

    def _terminal(self, owner: str) -> Terminal:
        certs, home = self._daemon.certs, self._daemon.place.base
        name = f"{owner}-terminal"
        return Terminal(
            name,
            owner,
            environment=settings(
                self._proxy.address, certs, certs.of(owner), home=home
            ),
            board=self._board,
            history=self._history,
            dice=random.Random(f"{self._board.seed} {name}"),
        )


async def _ask_again(user: User, known: Known) -> None:
    await user.run(known)


async def _end_if_long(user: User, known: Known) -> None:
    if known.job and not known.is_removed and known.takes > LONG:
        status = await user.look(known)

        if status is not None and not status.state.is_final:
            await user.kill(known)


async def _see_whole(user: User, known: Known) -> None:
    await user.wait(known)

    for stream in Stream:
        await user.read(known, Read(known.number, (stream,), follow=False))

    await user.read(known, Read(known.number, tuple(Stream)))
    await user.look(known)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()

    await asyncio.gather(*tasks, return_exceptions=True)
