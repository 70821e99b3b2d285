"""The Unix accounts that the daemon needs: whether they are there, and the server's."""

import grp
import os
import pwd
from collections.abc import Callable, Iterator
from typing import Final

from teleworkerd.privilege_drop import ServerAccount
from teleworkerd.settings import ConfigError, DaemonConfig, JobsConfig


_OWN: Final = "teleworker"  # the account of the server, where there is one
# Neither systemd nor a distribution gives these to anybody.
_UNUSED: Final = range(65_520, 65_534)


def check_accounts(jobs: JobsConfig) -> None:
    """Raise `ConfigError` for an account of *jobs* that is not there.

    Without root jobs run as who we are, and none is looked for.
    """
    if os.geteuid() != 0:
        return

    for name in sorted({jobs.user}.union(*jobs.users.values())):
        try:
            pwd.getpwnam(name)
        except (KeyError, ValueError):
            raise ConfigError(
                f"there is no Unix account {name!r}; make it, or name another in"
                " [jobs] user or users"
            ) from None


def find_server_account(daemon: DaemonConfig) -> ServerAccount | None:
    """Return whom the server is to become; None when we are not root.

    Its group is one that no account is in: what it may read is for nobody else.
    Raises `ConfigError`.
    """
    if os.geteuid() != 0:
        return None

    group = _unused_id()

    try:
        entry = pwd.getpwnam(daemon.user or _OWN)
    except (KeyError, ValueError):
        if daemon.user:
            raise ConfigError(
                f"there is no Unix account {daemon.user!r}; make it, or name another"
                " in [daemon] user"
            ) from None

        return ServerAccount(f"uid {group}", group, group)

    if entry.pw_uid == 0:
        raise ConfigError(
            f"[daemon] user {entry.pw_name} is root, which the server has to give up;"
            " name another account"
        )

    return ServerAccount(entry.pw_name, entry.pw_uid, group)


def doubts(account: ServerAccount | None, jobs: JobsConfig) -> Iterator[str]:
    """Yield what is unwise about who the server and the jobs of *jobs* are.

    *account* is the server's; without root there is nothing to choose.
    """
    if account is None:
        return

    for name in sorted({jobs.user}.union(*jobs.users.values())):
        if pwd.getpwnam(name).pw_uid == account.uid:
            yield (
                f"the server and jobs both run as {name}: jobs can end the server;"
                " name another account in [daemon] user"
            )

    if pwd.getpwnam(jobs.user).pw_uid == 0:
        yield (
            f"[jobs] user is {jobs.user}: every certificate may do everything here;"
            " name in [jobs.users] who needs that"
        )


def _unused_id() -> int:
    for number in _UNUSED:
        if not _is_known(pwd.getpwuid, number) and not _is_known(grp.getgrgid, number):
            return number

    raise ConfigError(
        f"all ids from {_UNUSED.start} to {_UNUSED.stop - 1} belong to accounts or"
        " groups; the server needs one that nobody has"
    )


def _is_known(look: Callable[[int], object], number: int) -> bool:
    try:
        look(number)
    except KeyError:
        return False

    return True
