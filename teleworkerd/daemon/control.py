"""`teleworkerd reload`: has a daemon that runs read its configuration again."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from teleworkerd.daemon.facts import DaemonFacts, DaemonState
from teleworkerd.daemon.running import RunningKeeper, find_keeper
from teleworkerd.protocol.errors import TeleworkerError


_PATIENCE: Final = 60.0  # seconds; a server may have to be ended by force first
_LOOK: Final = 0.05  # seconds

_BETWEEN: Final = (DaemonState.STARTING, DaemonState.RESTARTING)


class ControlError(TeleworkerError):
    """The daemon did not do what it was asked."""


def reload(state_dir: Path, *, restart_server: bool) -> str:
    """Have the daemon of *state_dir* use what it is configured with now.

    Then, with *restart_server*, have it replace its server; jobs go on. Returns
    what was done. Raises `ControlError`.
    """
    keeper = find_keeper(state_dir)

    if keeper is None:
        raise ControlError(
            f"no teleworkerd runs on state directory {state_dir}, or none that may be"
            " seen; give another with --state-dir, or be root"
        )

    with keeper:
        daemon = _Daemon(keeper, state_dir)
        done = daemon.reload()
        return f"{done}; {daemon.restart_server()}" if restart_server else done


class _Daemon:
    """Somebody else's daemon, as its signals and its file let us deal with it."""

    def __init__(self, keeper: RunningKeeper, state_dir: Path) -> None:
        self._keeper = keeper
        self._state_dir = state_dir
        self._name = f"keeper {keeper.pid}"

    def reload(self) -> str:
        asked = self._look().reloads_asked
        self._send(signal.SIGHUP)
        facts = self._wait_for(lambda facts: facts.reloads_done > asked)

        if facts.reload_error is not None:
            raise ControlError(
                f"{self._name} goes on as it was configured: {facts.reload_error}"
            )

        done = self._describe(facts)
        return "; ".join(filter(None, (done, facts.reload_unused)))

    def _describe(self, facts: DaemonFacts) -> str:
        """Return what came of a reload that left *facts*, once a server has tried."""
        if facts.state is DaemonState.STAYING:
            return (
                f"{self._name} uses the configuration from its next server on, and is"
                f" {facts.status}"
            )

        if facts.state in _BETWEEN:
            count = facts.restarts
            facts = self._wait_for(lambda facts: _has_tried(facts, since=count))

        if facts.state in _BETWEEN:
            raise ControlError(
                f"{self._name} has taken the configuration for its next server, but"
                f" none serves: {facts.status}; its log says more"
            )

        return f"{self._name} uses the configuration and the certificates of now"

    def restart_server(self) -> str:
        before = self._look()

        if before.state is DaemonState.STAYING:
            raise ControlError(
                f"{self._name} has no server, as it only stays for its jobs; start"
                " teleworkerd to have it serve again"
            )

        self._send(signal.SIGUSR2)
        after = self._wait_for(
            lambda facts: (
                facts.state is DaemonState.SERVING and facts.restarts > before.restarts
            )
        )
        return f"server {after.server_pid} has followed {before.server_pid or 'none'}"

    def _send(self, number: signal.Signals) -> None:
        try:
            self._keeper.send(number)
        except PermissionError:
            raise ControlError(
                f"{self._name} may not be sent {number.name}; be root, or its user"
            ) from None

    def _look(self) -> DaemonFacts:
        facts = DaemonFacts.read(self._state_dir)

        if facts is None:
            raise ControlError(
                f"{self._name} runs, but {self._state_dir / 'daemon'} does not say how;"
                " its disk may be full, or it is about to end"
            )

        return facts

    def _wait_for(self, is_done: Callable[[DaemonFacts], bool]) -> DaemonFacts:
        deadline = time.monotonic() + _PATIENCE

        while not self._keeper.has_ended:
            if is_done(facts := self._look()):
                return facts

            if time.monotonic() >= deadline:
                raise ControlError(
                    f"{self._name} has not done it within {_PATIENCE:g} s; its"
                    f" status is: {facts.status}; its log says more"
                )

            time.sleep(_LOOK)

        raise ControlError(f"{self._name} has ended meanwhile")


def _has_tried(facts: DaemonFacts, *, since: int) -> bool:
    """Whether a server serves, or one has ended after the restart number *since*."""
    if facts.state not in _BETWEEN:
        return True

    return facts.restarts > since + (facts.server_pid is not None)
