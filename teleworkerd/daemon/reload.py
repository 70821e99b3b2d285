"""Reads the configuration again: the whole daemon uses it then, or nothing does."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

from teleworkerd.config import Config
from teleworkerd.daemon.accounts import check_accounts
from teleworkerd.daemon.facts import DaemonState
from teleworkerd.daemon.notify import READY, notify, reloading, status
from teleworkerd.daemon.report import Report
from teleworkerd.daemon.servers import Servers
from teleworkerd.keeper.audit import OK
from teleworkerd.keeper.isolation import describe_isolation
from teleworkerd.keeper.keeper import Keeper
from teleworkerd.keeper.messages import Reload
from teleworkerd.keeper.orders import Reloaded
from teleworkerd.log import set_up
from teleworkerd.settings import ConfigError


log = logging.getLogger(__name__)


class Refused(Exception):
    """Why the configuration stays as it was."""


class Reloading:
    """Has *read* read the configuration whenever somebody asks, once at a time.

    What is asked for while that goes on is one more time, after it.
    """

    def __init__(
        self,
        read: Callable[[], Config],
        *,
        keeper: Keeper,
        servers: Servers,
        report: Report,
    ) -> None:
        self._read = read
        self._keeper = keeper
        self._servers = servers
        self._report = report
        self._asked = 0
        self._unused: str | None = None  # of the configuration that was read last
        self._server: int | None = None  # the number of the one …
        self._metrics = ""  # … that was told to have its metrics here
        self._task: asyncio.Task[None] | None = None
        self._answer: asyncio.Future[str | None] | None = None

    def ask(self) -> None:
        """Have the configuration read."""
        self._asked += 1
        self._report.note(reloads_asked=self._asked)

        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Give up what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def answered(self, answer: Reloaded) -> None:
        """Note what the server says to the configuration that it was sent."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer.error)

    async def _run(self) -> None:
        while self._report.facts.reloads_done < self._asked:
            # A server that is about to be ready was told the old one.
            while not self._servers.settled.is_set():
                await self._servers.settled.wait()

            number = self._asked
            self._notify(*reloading(), text="reading the configuration again")
            self._unused = None
            error = await self._reload()
            self._keeper.audit.write(
                "reload", "refused" if error else OK, message=error
            )
            self._report.note(
                reloads_done=number, reload_error=error, reload_unused=self._unused
            )
            self._notify_end()

    def _notify_end(self) -> None:
        facts = self._report.facts
        text = facts.status

        if facts.reload_error is not None:
            text += f"; the configuration stays as it was: {facts.reload_error}"

        self._notify(READY, text=text)

    def _notify(self, *states: str, text: str) -> None:
        """Say *text*, and *states* too while it is not said that this is the end."""
        if self._report.facts.state in (DaemonState.STOPPING, DaemonState.STAYING):
            states = ()

        notify(*states, status(text))

    async def _reload(self) -> str | None:
        """Return why nothing has changed, if so."""
        try:
            await self._use(self._read())
        except (ConfigError, Refused) as error:
            log.error("the configuration stays as it was: %s", error)
            return str(error)
        except Exception as error:
            # Whoever asked waits for an answer.
            log.exception("the configuration cannot be read again")
            return f"an error of ours, {type(error).__name__}; see the log"

        log.info("the new configuration is used for what begins from now on")
        return None

    async def _use(self, config: Config) -> None:
        """Use *config* everywhere; raises `Refused` or `ConfigError`."""
        check_accounts(config.jobs)

        if config.jobs != self._keeper.config.jobs:
            # It forks, to try it.
            describe_isolation(self._fixed(config))

        await self._agree(config)
        self._warn(config)
        self._keeper.configure(self._fixed(config))
        set_up(level=config.daemon.log_level, form=config.daemon.log_format)

    async def _agree(self, config: Config) -> None:
        """Have the server use *config*, if there is one; raises `Refused`."""
        if not self._servers.is_serving:
            return

        answer = self._answer = asyncio.get_running_loop().create_future()
        gone = asyncio.create_task(self._keeper.disconnected.wait())
        self._servers.give_files(config)
        self._keeper.ask(Reload(self._fixed(config)))

        try:
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()

        if not answer.done():
            raise Refused("the server ended before it had answered; ask once more")

        if (error := answer.result()) is not None:
            raise Refused(error)

    def _fixed(self, config: Config) -> Config:
        """Return *config* for where we are, which cannot change while we are there."""
        here = self._keeper.config.daemon
        return replace(
            config,
            daemon=replace(
                config.daemon,
                listen=here.listen,
                state_dir=here.state_dir,
                user=here.user,
            ),
        )

    def _warn(self, config: Config) -> None:
        """Say what of *config* is not used."""
        unused = list(self._find_unused(config))

        for each in unused:
            log.warning("%s", each)

        self._unused = "; ".join(unused) or None

    def _find_unused(self, config: Config) -> Iterator[str]:
        here = self._keeper.config.daemon

        for name, new, old in (
            ("listen", config.daemon.listen, here.listen),
            ("state_dir", config.daemon.state_dir, here.state_dir),
            ("user", config.daemon.user, here.user),
        ):
            if new != old:
                yield f"{name} stays {old or 'as it was'}: {new} needs a restart"

        if config.metrics.listen != self._find_metrics():
            yield (
                "[metrics] listen is used by the next server; 'teleworkerd reload"
                " --restart-server' starts one"
            )

    def _find_metrics(self) -> str:
        """Return where the server has its metrics, whatever was configured since."""
        if self._server != self._keeper.servers:
            self._server = self._keeper.servers
            self._metrics = self._keeper.config.metrics.listen

        return self._metrics
