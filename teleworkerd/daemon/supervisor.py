"""The daemon as a whole: from its start to the signals that end it."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Final

from teleworkerd.cgroups.base import CgroupDriver
from teleworkerd.cgroups.detect import open_driver
from teleworkerd.config import Config
from teleworkerd.daemon.accounts import check_accounts, doubts, find_server_account
from teleworkerd.daemon.facts import DaemonState
from teleworkerd.daemon.front import stand_in
from teleworkerd.daemon.listening import Listeners, given, listen
from teleworkerd.daemon.notify import STOPPING, WATCHDOG, notify
from teleworkerd.daemon.reload import Reloading
from teleworkerd.daemon.report import Report
from teleworkerd.daemon.servers import GOODBYE, Servers, Wanted
from teleworkerd.daemon.watchdog import watchdog_interval
from teleworkerd.keeper.descriptors import most_descriptors
from teleworkerd.keeper.isolation import describe_isolation
from teleworkerd.keeper.keeper import Keeper
from teleworkerd.keeper.orders import Alive, Reloaded
from teleworkerd.keeper.orphans import use_pidfds
from teleworkerd.keeper.state_dir import StateDirectory, StateInUse
from teleworkerd.privilege_drop import ServerAccount
from teleworkerd.settings import AtShutdown, ConfigError, parse_address


log = logging.getLogger(__name__)

_LEAST: Final = 32  # descriptors; with fewer no server comes up, or no job runs


def run(config: Config, *, reload: Callable[[], Config]) -> int:
    """Run the daemon until it is told to end; return its exit status.

    *reload* reads the configuration again, for SIGHUP. Raises `ConfigError` for
    what keeps the daemon from starting.
    """
    if (most := most_descriptors()) < _LEAST:
        raise ConfigError(
            f"no more than {most} files may be open, and {_LEAST} are needed; raise"
            " LimitNOFILE= or 'ulimit -Hn'"
        )

    check_accounts(config.jobs)
    isolation = describe_isolation(config)
    account = find_server_account(config.daemon)

    for doubt in doubts(account, config.jobs):
        log.warning("%s", doubt)

    readers = None if account is None else account.gid
    listeners = given()
    use_pidfds()

    try:
        state = StateDirectory(config, readers=readers)
    except StateInUse as error:
        # Its keeper may be without a server, for the sake of its jobs.
        status = stand_in(config.state_dir, otherwise=error)

        if status is not None:
            return status

        state = StateDirectory(config, readers=readers)

    if listeners is None:
        listeners = listen(parse_address(config.daemon.listen), config.server.backlog)
    else:
        log.info(
            "listening on what the service manager gave, %s; listen = %s is not used",
            ", ".join(listeners.addresses),
            config.daemon.listen,
        )

    log.info("isolation of jobs: %s", isolation)

    try:
        return asyncio.run(_live(config, account, state, listeners, reload))
    finally:
        listeners.close()


async def _live(
    config: Config,
    account: ServerAccount | None,
    state: StateDirectory,
    listeners: Listeners,
    reload: Callable[[], Config],
) -> int:
    return await _Daemon(config, account, state, listeners, reload).run()


class _Daemon:
    """One run of the daemon; *listeners* are handed to each server."""

    def __init__(
        self,
        config: Config,
        account: ServerAccount | None,
        state: StateDirectory,
        listeners: Listeners,
        read: Callable[[], Config],
    ) -> None:
        self._state = state
        self._listeners = listeners
        self._keeper = Keeper(config, _open_driver(), account)
        self._report = Report(state, started_at=self._keeper.started_at)
        self._servers = Servers(self._keeper, state, listeners, self._report)
        self._reloading = Reloading(
            read, keeper=self._keeper, servers=self._servers, report=self._report
        )
        self._stops = 0  # how often it was told to end
        self._is_leaving = False  # then, the jobs are not ended
        self._deadline = 0.0  # until when they have time to end, else
        self._called = asyncio.Event()  # by a signal, while it stays

    async def run(self) -> int:
        self._keeper.answered = self._answered
        self._keeper.orphans.adopt()
        self._handle_signals()
        self._state.write_pid("keeper", os.getpid())
        self._report.note(status="starting")
        self._tell_alive()

        try:
            await self._keeper.clear_leftovers()
            self._check_audit()
            return await self._live()
        finally:
            await self._reloading.close()
            await self._keeper.close(grace=self._grace())
            self._state.clear()

    def _check_audit(self) -> None:
        """Raise `ConfigError` if nothing may be done for want of the audit log."""
        if self._keeper.audit.is_failing and self._keeper.config.audit.fail_closed:
            raise ConfigError(
                f"audit log {self._keeper.config.audit_file} cannot be written, and"
                " with [audit] fail_closed nothing is started without it"
            )

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number.name)

        loop.add_signal_handler(signal.SIGHUP, self._reload)
        loop.add_signal_handler(signal.SIGUSR1, self._serve_again)
        loop.add_signal_handler(signal.SIGUSR2, self._restart)

    async def _live(self) -> int:
        while True:
            code = await self._servers.run()

            if not self._is_leaving or not await self._stay():
                return code

    async def _stay(self) -> bool:
        """Wait for the end of the last job; return whether to serve again before."""
        self._listeners.pause()
        over = asyncio.create_task(self._keeper.jobs_over())

        while self._is_leaving and self._stops == 1 and self._keeper.job_count:
            self._tell_staying()
            self._called.clear()
            called = asyncio.create_task(self._called.wait())
            await asyncio.wait({over, called}, return_when=asyncio.FIRST_COMPLETED)
            called.cancel()

            if over.done():
                break

        over.cancel()
        return not self._is_leaving

    def _tell_staying(self) -> None:
        count = self._keeper.job_count
        text = (
            f"staying without a server until {_count(count)}"
            f" {'is' if count == 1 else 'are'} over"
        )
        log.info("%s", text)
        self._report.tell(text, state=DaemonState.STAYING)

    def _answered(self, answer: Alive | Reloaded) -> None:
        match answer:
            case Alive():
                self._servers.answered(answer)
            case Reloaded():
                self._reloading.answered(answer)

    def _stop(self, name: str) -> None:
        self._stops += 1
        self._called.set()

        if self._stops > 1:
            log.warning("%s again: ending at once", name)
            self._keeper.end_jobs(grace=0)
            self._servers.kill()
            return

        self._state.forget_address()
        jobs = self._keeper.config.jobs
        self._is_leaving = jobs.at_shutdown is AtShutdown.LEAVE

        if self._is_leaving:
            self._leave(name)
        else:
            self._end(name, jobs.shutdown_grace)

    def _end(self, name: str, grace: float) -> None:
        self._deadline = time.monotonic() + grace
        text = f"ending: jobs have {grace:g} s"
        log.info("%s: %s", name, text)
        self._report.tell(text, STOPPING, state=DaemonState.STOPPING)
        self._servers.want(Wanted.END, within=grace + GOODBYE)
        # The server closes them as well, and then nobody can connect any more.
        self._listeners.close()

    def _leave(self, name: str) -> None:
        text = f"leaving: {_count(self._keeper.job_count)} may go on"
        log.info("%s: %s", name, text)
        self._report.tell(text, STOPPING, state=DaemonState.STAYING)
        self._servers.want(Wanted.LEAVE, within=GOODBYE)

    def _reload(self) -> None:
        log.info("SIGHUP: reading the configuration again")
        self._reloading.ask()

    def _restart(self) -> None:
        if self._stops:
            log.info("SIGUSR2: no server is restarted, as this is the end")
            return

        log.info("SIGUSR2: restarting the server; jobs go on")
        self._servers.want(Wanted.REPLACE, within=GOODBYE)

    def _serve_again(self) -> None:
        if not self._is_leaving or self._stops > 1:
            log.info("SIGUSR1: nothing to do, as it does not stay for its jobs")
            return

        log.info("SIGUSR1: serving again")
        self._stops = 0
        self._is_leaving = False
        self._report.tell("serving again", state=DaemonState.RESTARTING)
        self._servers.want(Wanted.REPLACE, within=GOODBYE)
        self._reloading.ask()
        self._called.set()

    def _grace(self) -> float:
        """How long jobs that no server has ended may take."""
        left = self._deadline - time.monotonic()
        return max(0.0, left) if self._stops == 1 else 0.0

    def _tell_alive(self) -> None:
        if (interval := watchdog_interval()) is not None:
            notify(WATCHDOG)
            asyncio.get_running_loop().call_later(interval, self._tell_alive)


def _open_driver() -> CgroupDriver:
    driver = open_driver()

    if driver.reason is not None:
        log.warning("jobs cannot be limited: %s", driver.reason)

    return driver


def _count(jobs: int) -> str:
    return "one job" if jobs == 1 else f"{jobs} jobs"
