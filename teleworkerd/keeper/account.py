"""The Unix account of a job, and the clean environment that goes with it."""

import errno
import os
import pwd
from dataclasses import dataclass
from typing import Final

from teleworkerd.execution import JobIdentity, LaunchError
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.status import LaunchFailure
from teleworkerd.protocol.types import LaunchStage


PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Account:
    """Who a job is to the kernel; *groups* holds every group of the user."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str


def find_account(name: str) -> Account:
    """Return the account *name*; raises `LaunchError` when there is none."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise LaunchError(
            LaunchFailure(
                LaunchStage.USER,
                errno.ENOENT,
                f"there is no Unix account {name!r}; see [jobs] in the daemon's"
                " configuration",
            )
        ) from None

    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return _account(entry, groups)


def own_account() -> Account:
    """Return the account that this process has, even if it has no name."""
    groups = tuple(os.getgroups())

    try:
        return _account(pwd.getpwuid(os.getuid()), groups)
    except KeyError:
        uid, gid = os.getuid(), os.getgid()
        return Account(str(uid), uid, gid, groups, "/", "/bin/sh")


def environment(
    account: Account, job: JobIdentity, spec: JobSpec
) -> dict[bytes, bytes]:
    """Return all that the job finds in its environment; nothing is inherited."""
    base = {
        "PATH": PATH,
        "HOME": account.home,
        "USER": account.name,
        "LOGNAME": account.name,
        "SHELL": account.shell,
        "LANG": "C.UTF-8",
    }
    # The daemon's own last: the tree of a job is recognised by its id.
    own = {"TELEWORKER_JOB_ID": job.id, "TELEWORKER_OWNER": job.owner}
    return {
        **{key.encode(): os.fsencode(value) for key, value in base.items()},
        **spec.env,
        **{key.encode(): value.encode() for key, value in own.items()},
    }


def _account(entry: pwd.struct_passwd, groups: tuple[int, ...]) -> Account:
    return Account(
        entry.pw_name,
        entry.pw_uid,
        entry.pw_gid,
        groups,
        entry.pw_dir or "/",
        entry.pw_shell or "/bin/sh",
    )
