"""What a daemon says of itself in the file `daemon` of its state directory."""

import json
import signal
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self, cast

from teleworkerd.protocol.errors import RemoteProtocolError
from teleworkerd.protocol.fields import reader


class DaemonState(StrEnum):
    """What a daemon does."""

    STARTING = "starting"  # its first server
    SERVING = "serving"
    RESTARTING = "restarting"  # the server; jobs go on
    STOPPING = "stopping"
    STAYING = "staying"  # until its last job is over, without a server


@dataclass(frozen=True, slots=True)
class DaemonFacts:
    """How a daemon is. Times are RFC 3339, in UTC.

    `status` is for people. `restarts` is how often a server followed another, and
    `last_exit_status` what the last one ended with, the number of a signal if it
    is negative. `reloads_asked` counts what asked to read the configuration again,
    `reloads_done` which of these was the last one that is dealt with, and
    `reload_error` says why nothing was changed then, and `reload_unused` what of the
    configuration is not used although the rest is.
    """

    keeper_pid: int
    keeper_started_at: str
    state: DaemonState = DaemonState.STARTING
    status: str = ""
    server_pid: int | None = None
    server_started_at: str | None = None
    restarts: int = 0
    last_exit_status: int | None = None
    reloads_asked: int = 0
    reloads_done: int = 0
    reload_error: str | None = None
    reload_unused: str | None = None

    @classmethod
    def read(cls, state_dir: Path) -> Self | None:
        """Return what stands in *state_dir*; None when nothing there can be read."""
        path = state_dir / "daemon"

        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            return cast("Self", reader(cast("object", cls))(value, str(path)))
        except (OSError, ValueError, RemoteProtocolError):
            return None


def describe_end(status: int) -> str:
    """Return how a server ended; a negative *status* is that of a signal."""
    if status >= 0:
        return f"the server ended with status {status}"

    try:
        return f"the server was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"the server was killed by signal {-status}"


def timestamp(nanoseconds: int | None = None) -> str:
    """Return a time of the clock, or now, as RFC 3339."""
    seconds = None if nanoseconds is None else nanoseconds // 1_000_000_000
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
