"""What jobs leave behind becomes our child, and is reaped; our own children are not."""

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from teleworkerd.keeper.syscalls import PR_SET_CHILD_SUBREAPER, prctl


_REAP_EVERY: Final = 1.0  # seconds; orphans that outlive their job are rare


class Orphans:
    """Reaps every child but those that somebody waits for.

    `settled` is set while nothing is being launched.
    """

    def __init__(self) -> None:
        self.settled = asyncio.Event()
        self.settled.set()
        self._launching = 0
        self._children: set[int] = set()

    def adopt(self) -> None:
        """Become the parent of what jobs leave behind, from now on."""
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        self._reap_again()

    @contextmanager
    def launching(self) -> Iterator[None]:
        """Reap nothing meanwhile: a new child's pid is not known yet."""
        self.begin()

        try:
            yield
        finally:
            self.end()

    def begin(self) -> None:
        """Begin what `launching` is for."""
        self._launching += 1
        self.settled.clear()

    def end(self) -> None:
        """End it."""
        self._launching -= 1

        if not self._launching:
            self.settled.set()
            self._reap()

    def keep(self, pid: int) -> None:
        """Note that *pid* is a process that somebody here waits for."""
        self._children.add(pid)

    def forget(self, pid: int) -> None:
        """Note that *pid* has been waited for."""
        self._children.discard(pid)
        self._reap()

    def _reap_again(self) -> None:
        # Not by SIGCHLD: a burst of it fills the loop's wakeup socket, where a
        # SIGTERM would then be lost.
        asyncio.get_running_loop().call_later(_REAP_EVERY, self._reap_again)
        self._reap()

    def _reap(self) -> None:
        # While a launch is under way the next child may be the job itself.
        while not self._launching:
            try:
                child = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return

            if child is None or child.si_pid in self._children:
                return

            os.waitpid(child.si_pid, os.WNOHANG)


def use_pidfds() -> None:
    """Let asyncio wait for children by pidfd: no thread each, no signal races."""
    # Later versions do so by themselves, and deprecate the call.
    if sys.version_info < (3, 12):
        policy = asyncio.get_event_loop_policy()
        policy.set_child_watcher(asyncio.PidfdChildWatcher())
