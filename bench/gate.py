"""Where jobs wait until a measurement begins, and where they say that they are done."""

import os
import select
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from bench.processes import PATIENCE
from bench.series import MeasurementError


ARRIVAL: Final = 30.0  # seconds

_PIPES: Final = ("here", "begin", "done")


class Gate:
    """Three named pipes: who waits takes a line from one, and costs no time.

    They are open to all accounts: jobs are not run by ours.
    """

    def __init__(self, directory: Path) -> None:
        self._paths = {name: directory / name for name in _PIPES}
        self._fds: dict[str, int] = {}

        for name, path in self._paths.items():
            os.mkfifo(path)
            path.chmod(0o666)
            # Both ends, so that nobody waits in open(2) for anybody.
            self._fds[name] = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for path in self._paths.values():
            path.unlink()

        for fd in self._fds.values():
            os.close(fd)

    def behind(self, command: Sequence[str]) -> tuple[str, ...]:
        """Return *command*, to be run once the gate is open."""
        script = (
            f"echo > {self._paths['here']}; read _ < {self._paths['begin']};"
            f" {shlex.join(command)}; echo > {self._paths['done']}"
        )
        return ("sh", "-c", script)

    def await_arrival(self, count: int = 1) -> None:
        """Wait until *count* commands wait; raises `MeasurementError`."""
        if not self._take("here", count, within=ARRIVAL):
            raise MeasurementError(f"not all of {count} came within {ARRIVAL:g} s")

    def open(self, count: int = 1) -> None:
        """Let *count* commands through."""
        os.write(self._fds["begin"], b"\n" * count)

    def is_done(self, *, within: float = PATIENCE) -> bool:
        """Wait for the end of a command; return False if it takes longer."""
        return self._take("done", 1, within=within)

    def _take(self, name: str, count: int, *, within: float) -> bool:
        deadline = time.monotonic() + within
        poller = select.poll()
        poller.register(self._fds[name], select.POLLIN)

        while count:
            left = deadline - time.monotonic()

            if left <= 0 or not poller.poll(left * 1000):
                return False

            count -= len(os.read(self._fds[name], count))

        return True
