"""Stands in front of a keeper that an earlier `teleworkerd` has left to its jobs."""

import asyncio
import contextlib
import logging
import signal
from pathlib import Path
from typing import Final

from teleworkerd.daemon.facts import DaemonFacts, DaemonState
from teleworkerd.daemon.notify import (
    READY,
    STOPPING,
    WATCHDOG,
    notify,
    reloading,
    status,
)
from teleworkerd.daemon.running import RunningKeeper, find_keeper
from teleworkerd.daemon.watchdog import watchdog_interval
from teleworkerd.keeper.state_dir import StateInUse


log = logging.getLogger(__name__)

_ENDING: Final = (signal.SIGTERM, signal.SIGINT)
_PASSED: Final = (*_ENDING, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

_AWAKE: Final = (DaemonState.SERVING, DaemonState.RESTARTING)

_LOOK_SOON: Final = 0.1  # seconds, while something is awaited
_LOOK: Final = 1.0  # seconds, when not


def stand_in(state_dir: Path, *, otherwise: StateInUse) -> int | None:
    """Have the keeper of *state_dir* serve again; return our exit status at its end.

    None says that it ended before, so that a daemon can be started. Raises
    *otherwise* when that keeper does not stay for its jobs.
    """
    keeper = find_keeper(state_dir)

    if keeper is None:
        raise otherwise

    with keeper:
        facts = DaemonFacts.read(state_dir)

        if facts is None or facts.state is not DaemonState.STAYING:
            raise otherwise

        return asyncio.run(_Front(keeper, state_dir).run())


class _Front:
    """Passes signals on, and tells our service manager how that keeper is.

    It is asked to serve, serves, and is told to end when we are: one after the
    other, for it would end its jobs if it were told while it stays for them.
    """

    def __init__(self, keeper: RunningKeeper, state_dir: Path) -> None:
        self._keeper = keeper
        self._state_dir = state_dir
        self._over = asyncio.Event()
        self._asked_at: int | None = None  # how many reloads it had been asked for
        self._is_served = False
        self._is_told = False  # to end
        self._was_passed = False  # that, to the keeper
        self._is_left = False  # it stays for its jobs again
        self._reload: int | None = None  # the one that must be dealt with
        self._status = ""

    async def run(self) -> int | None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._keeper.pidfd, self._over.set)

        for number in _PASSED:
            loop.add_signal_handler(number, self._signalled, number)

        log.info(
            "keeper %d has stayed for its jobs; it is asked to serve again, with the"
            " flags that it was started with",
            self._keeper.pid,
        )
        self._tell_alive()

        while not self._over.is_set():
            self._look()

            if self._is_left:
                log.info("keeper %d stays for its jobs", self._keeper.pid)
                break

            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), self._interval())

        loop.remove_reader(self._keeper.pidfd)

        if self._over.is_set():
            log.info("keeper %d has ended", self._keeper.pid)

        if self._is_told:
            return 0

        return 1 if self._is_served else None

    def _interval(self) -> float:
        is_quiet = self._is_served and not self._is_told and self._reload is None
        return _LOOK if is_quiet else _LOOK_SOON

    def _look(self) -> None:
        facts = DaemonFacts.read(self._state_dir)

        if facts is None:
            return

        if self._is_told:
            self._have_ended(facts)
        elif not self._is_served:
            self._have_served(facts)

        if self._reload is not None and facts.reloads_done >= self._reload:
            self._reload = None
            self._notify(READY)

        if facts.status != self._status:
            self._status = facts.status
            notify(status(facts.status))

    def _have_served(self, facts: DaemonFacts) -> None:
        if facts.state is DaemonState.SERVING:
            self._is_served = True
            log.info("keeper %d is %s", self._keeper.pid, facts.status)
            notify(READY)
        elif facts.state is DaemonState.STAYING:
            self._asked_at = facts.reloads_asked
            self._keeper.send(signal.SIGUSR1)

    def _have_ended(self, facts: DaemonFacts) -> None:
        if facts.state is DaemonState.STAYING:
            # Or it has not come yet to what it was asked, which is also to reload.
            self._is_left = self._was_passed or self._asked_at != facts.reloads_asked
        elif facts.state in _AWAKE and not self._was_passed:
            self._was_passed = True
            self._pass_on(signal.SIGTERM)

    def _signalled(self, number: signal.Signals) -> None:
        if number in _ENDING and not self._is_told:
            log.info("%s: keeper %d is told to end", number.name, self._keeper.pid)
            self._is_told = True
            notify(STOPPING)
            self._look()
            return

        if number is signal.SIGHUP:
            self._expect_reload()

        self._pass_on(number)

    def _pass_on(self, number: signal.Signals) -> None:
        log.info("%s: passed on to keeper %d", number.name, self._keeper.pid)
        self._keeper.send(number)

    def _expect_reload(self) -> None:
        self._notify(*reloading())
        facts = DaemonFacts.read(self._state_dir)
        self._reload = 1 + (facts.reloads_asked if facts is not None else 0)

    def _notify(self, *states: str) -> None:
        # After the word that this is the end, no other counts.
        if not self._is_told:
            notify(*states)

    def _tell_alive(self) -> None:
        if (interval := watchdog_interval()) is not None:
            notify(WATCHDOG)
            asyncio.get_running_loop().call_later(interval, self._tell_alive)
