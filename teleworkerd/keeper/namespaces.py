"""The namespaces of a job: what it sees of mounts, processes, IPC, names, network."""

import errno
import fcntl
import logging
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Final

from teleworkerd.keeper.mounts import Step
from teleworkerd.keeper.syscalls import naming, setns, unshare


log = logging.getLogger(__name__)

CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWCGROUP: Final = 0x0200_0000
CLONE_NEWUTS: Final = 0x0400_0000
CLONE_NEWIPC: Final = 0x0800_0000
CLONE_NEWUSER: Final = 0x1000_0000
CLONE_NEWPID: Final = 0x2000_0000
CLONE_NEWNET: Final = 0x4000_0000

_ALWAYS: Final = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_LOOPBACK_UP: Final = struct.pack("16sH22x", b"lo", _IFF_UP)
_INIT: Final = 1  # the pid of the first process of a namespace
_TRIES: Final = 100
_PAUSE: Final = 0.01  # seconds


@dataclass(frozen=True, slots=True)
class Namespaces:
    """What a process needs to shut itself off; it must be in its groups already.

    With *own_pids* it must be the first process of a PID namespace, which is made
    before the fork.
    """

    steps: tuple[Step, ...]
    own_pids: bool
    own_network: bool

    def enter(self) -> None:
        """Do it; raises `OSError` that names what could not be done."""
        if self.own_pids and os.getpid() != _INIT:
            number = pid_namespaces().error or errno.ECHILD
            raise OSError(number, os.strerror(number), "PID namespace")

        with naming("namespaces"):
            unshare(_ALWAYS | (CLONE_NEWNET if self.own_network else 0))

        umask = os.umask(0)

        for step in self.steps:
            step.make()

        os.umask(umask)

        if self.own_network:
            with naming("loopback interface"):
                _raise_loopback()


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, _LOOPBACK_UP)


class PidNamespaces:
    """Has a fork make the first process of a PID namespace, and only that one.

    Which namespace a child is born into is told to the kernel beforehand, for all
    of them. It is told right before the fork, and taken back right after it, within
    the call that forks: no other process can come between. `error` is why it failed
    the last time, in the child too.
    """

    def __init__(self) -> None:
        self.error = 0
        self._is_wanted = False
        self._is_away = False
        self._home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        os.register_at_fork(before=self._leave, after_in_parent=self._return)

    @contextmanager
    def for_next_fork(self) -> Iterator[None]:
        """Have the next fork make one; the block must fork before it first waits."""
        self._is_wanted = True

        try:
            yield
        finally:
            self._is_wanted = False

    def _leave(self) -> None:
        if not self._is_wanted:
            return

        self._is_wanted = False

        try:
            unshare(CLONE_NEWPID)
        except OSError as error:
            self.error = error.errno or 0
        else:
            self._is_away = True

    def _return(self) -> None:
        for _ in range(_TRIES if self._is_away else 0):
            try:
                setns(self._home, CLONE_NEWPID)
            except OSError:  # memory, if anything
                time.sleep(_PAUSE)
            else:
                self._is_away = False
                return

        if self._is_away:
            # Whatever we started from now on, a server too, would die with that job.
            log.critical("the PID namespace of a job cannot be left again")
            os.abort()


@cache
def pid_namespaces() -> PidNamespaces:
    """Return those of this process: what is done at its forks is done for ever."""
    return PidNamespaces()
