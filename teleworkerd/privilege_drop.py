"""How the server gives up root: what it becomes, and that it cannot go back."""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.types import Word


_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITIES: Final = range(64)  # more than any kernel has
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class StillPrivileged(TeleworkerError):
    """Root could not be given up: nobody may be served so."""


@dataclass(frozen=True, slots=True)
class ServerAccount:
    """Who the server is to the kernel once it serves; *name* is for people.

    The group is that of all which it has to read.
    """

    name: Word
    uid: int
    gid: int


def gain_nothing() -> None:
    """Have neither exec nor a file give this process any privilege from now on.

    Call it before there are threads: each has its own.
    """
    _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)

    for capability in _CAPABILITIES:
        # Those that the kernel does not know are refused.
        _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def become(account: ServerAccount) -> None:
    """Be *account* and nothing else, in all threads; raises `StillPrivileged`.

    Nor can anybody of the same account look into this process.
    """
    try:
        os.setgroups(())
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    except OSError as error:
        raise StillPrivileged(
            f"the server cannot become {account.name}: {error.strerror}"
        ) from error

    ids = {*os.getresuid()}, {*os.getresgid()}, os.getgroups()

    if ids != ({account.uid}, {account.gid}, []) or account.uid == 0:
        raise StillPrivileged(f"the server has not become {account.name}")

    if _has_capabilities():
        raise StillPrivileged(
            f"the server has capabilities of root's as {account.name}"
        )

    _LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _has_capabilities() -> bool:
    """Whether any thread of ours can do what its account may not."""
    return any(
        line.split()[1].strip("0")
        for task in Path("/proc/self/task").iterdir()
        for line in (task / "status").read_text().splitlines()
        if line.startswith(("CapPrm:", "CapEff:", "CapAmb:"))
    )
