"""What of root's power is taken from a job, and what limits it does not inherit."""

import os
import resource
from dataclasses import dataclass
from functools import cache
from typing import Final

from teleworkerd.keeper.namespaces import Namespaces
from teleworkerd.keeper.seccomp import no_user_namespaces
from teleworkerd.keeper.syscalls import (
    PR_CAPBSET_DROP,
    PR_CAPBSET_READ,
    PR_SET_NO_NEW_PRIVS,
    capability_sets,
    filter_calls,
    landlock_version,
    naming,
    permitted_capabilities,
    prctl,
    scope,
    set_capabilities,
)


_SETPCAP: Final = 8
_NET_ADMIN: Final = 12
_MOST: Final = 64  # capabilities that any kernel has

# What docker leaves a root process too, but for CAP_MKNOD: the files of others, their
# accounts, the low ports; nothing that changes the machine or other processes' memory.
_KEPT: Final = frozenset(
    {
        0,  # CHOWN
        1,  # DAC_OVERRIDE
        3,  # FOWNER
        4,  # FSETID
        5,  # KILL
        6,  # SETGID
        7,  # SETUID
        8,  # SETPCAP
        10,  # NET_BIND_SERVICE
        13,  # NET_RAW
        18,  # SYS_CHROOT
        29,  # AUDIT_WRITE
        31,  # SETFCAP
    }
)

_SCOPED: Final = 6  # the version of Landlock that knows scopes
_ABSTRACT_UNIX: Final = 1
_SIGNALS: Final = 2


@dataclass(frozen=True, slots=True)
class Privileges:
    """What a job is left with.

    *dropped* leave the bounding set, *capabilities* are the others; *filter* decides
    about its system calls. With *is_scoped* it can neither signal nor look into a
    process that it did not start. *core* is the limit of core files.
    """

    dropped: tuple[int, ...]
    capabilities: bytes
    filter: bytes | None
    is_scoped: bool
    core: tuple[int, int]

    def limit(self) -> None:
        """Do what needs privileges; raises `OSError`."""
        resource.setrlimit(resource.RLIMIT_CORE, self.core)

        for capability in self.dropped:
            prctl(PR_CAPBSET_DROP, capability)

    def give_up(self) -> None:
        """Have no more, once the account has been changed; raises `OSError`."""
        set_capabilities(self.capabilities)
        prctl(PR_SET_NO_NEW_PRIVS, 1)

    def confine(self) -> None:
        """Reach no other processes after that; raises `OSError` that names what."""
        if self.is_scoped:
            with naming("Landlock"):
                scope(_ABSTRACT_UNIX | _SIGNALS)

        if self.filter is not None:
            with naming("seccomp"):
                filter_calls(self.filter)


def can_scope() -> bool:
    """Whether this kernel can keep jobs of one account from each other."""
    return _landlock() >= _SCOPED


def privileges_of(
    uid: int, namespaces: Namespaces | None, *, is_root: bool
) -> Privileges:
    """Return what a job of *uid* is left with.

    *is_root* says whether we are, and it becomes that account. A job of root without
    *namespaces* keeps what root has.
    """
    kept = held = _permitted()

    if is_root and uid != 0:
        kept = 0
    elif namespaces is not None:
        kept &= _kept(own_network=namespaces.own_network)

    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    return Privileges(
        dropped=_bounding_without(kept) if kept != held else (),
        capabilities=capability_sets(kept),
        filter=_filter() if namespaces is not None and uid == 0 else None,
        is_scoped=namespaces is not None and can_scope(),
        core=(0, hard),
    )


@cache
def _kept(*, own_network: bool) -> int:
    kept = _KEPT | {_NET_ADMIN} if own_network else _KEPT
    return sum(1 << capability for capability in kept)


def _filter() -> bytes | None:
    return no_user_namespaces(os.uname().machine)


@cache
def _permitted() -> int:
    return permitted_capabilities()


@cache
def _landlock() -> int:
    return landlock_version()


@cache
def _bounding_without(kept: int) -> tuple[int, ...]:
    # Without this one nobody may, and there is nothing that could give them back.
    if not _permitted() >> _SETPCAP & 1:
        return ()

    return tuple(
        capability
        for capability in range(_MOST)
        if not kept >> capability & 1 and _is_bounding(capability)
    )


def _is_bounding(capability: int) -> bool:
    try:
        return prctl(PR_CAPBSET_READ, capability) == 1
    except OSError:  # no kernel has more
        return False
