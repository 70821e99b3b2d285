"""`[jobs] isolation`: what of the machine and of other jobs a job is shut off from."""

import errno
import os
import pwd
import select
import signal
from collections.abc import Iterable
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Final

from teleworkerd.config import Config
from teleworkerd.execution import LaunchError
from teleworkerd.keeper import mounts as mounting
from teleworkerd.keeper.mounts import Step
from teleworkerd.keeper.namespaces import Namespaces, pid_namespaces
from teleworkerd.keeper.privileges import can_scope
from teleworkerd.keeper.seccomp import no_user_namespaces
from teleworkerd.protocol.status import LaunchFailure
from teleworkerd.protocol.types import LaunchStage
from teleworkerd.settings import ConfigError, Isolation, JobsConfig, show_size
from teleworkerd.spare import LACKS, lack_of


_TABLE: Final = Path("/proc/self/mountinfo")
_MACHINE: Final = os.uname().machine
_ROOT_NEEDED: Final = (
    'isolation = "private" needs a daemon that runs as root; start it so, or set'
    ' [jobs] isolation = "none"'
)
_UNKNOWN: Final = (
    f"jobs of root cannot be private on a machine {_MACHINE}, whose system"
    ' calls we do not know; give another account, or set [jobs] isolation = "none"'
)
_NOT_ALLOWED: Final = "run the daemon with CAP_SYS_ADMIN, which few containers have"
_ADVICE: Final = {
    errno.EPERM: _NOT_ALLOWED,
    errno.EACCES: _NOT_ALLOWED,
    errno.ENOSPC: "raise the limits in /proc/sys/user",
    **dict.fromkeys(LACKS, "try again later"),
}
_NO_ADVICE: Final = "use a kernel that can do it"
_TRIAL: Final = 10.0  # seconds; it takes a millisecond
_TEXT: Final = 4096  # bytes


def namespaces_of(
    config: Config, uid: int, *, groups: Iterable[int] = ()
) -> Namespaces | None:
    """Return what a job of *uid* enters, None if it is not isolated.

    *groups* are open `cgroup.procs` of the groups that it will have joined. Raises
    `LaunchError`.
    """
    if config.jobs.isolation is Isolation.NONE:
        return None

    return _namespaces(config, uid, groups)


def explain(what: str, number: int) -> str:
    """Return why a job could not be isolated: *what* failed, and by which errno."""
    advice = _ADVICE.get(number, _NO_ADVICE)
    return (
        f"the job cannot be isolated: {what}: {os.strerror(number)}; {advice},"
        ' or set [jobs] isolation = "none"'
    )


def hides(path: bytes) -> bool:
    """Whether an isolated job has another directory where *path* leads us."""
    return any(path.startswith(each + b"/") for each in mounting.SCRATCH)


def describe_isolation(config: Config) -> str:
    """Return in words what jobs are shut off from, once it has been tried.

    Takes some milliseconds, and forks. Raises `ConfigError` when it cannot be had.
    """
    jobs = config.jobs

    if jobs.isolation is Isolation.NONE:
        return "none: a job may see and do what its account may"

    uid = 0 if _has_root(jobs) else 1

    try:
        namespaces = _namespaces(config, uid, ())
    except LaunchError as error:
        raise ConfigError(error.failure.message) from None

    if (why := _try(namespaces)) is not None:
        raise ConfigError(f'isolation = "private" is not possible here: {why}')

    own = ["mounts", "IPC", "host name", "view of control groups"]
    own += ["processes"] * jobs.private_pids + ["network"] * jobs.private_network
    words = f"private: own {', '.join(own)}, and {show_size(jobs.tmp_size)} of /tmp"

    if jobs.private_pids or can_scope():
        return words

    return (
        f"{words}; jobs of one account can look into each other, as this kernel has no"
        " scopes of Landlock (Linux 6.12): set private_pids"
    )


def _namespaces(config: Config, uid: int, groups: Iterable[int]) -> Namespaces:
    jobs = config.jobs

    if os.geteuid() != 0:
        raise _failure(errno.EPERM, _ROOT_NEEDED)

    if uid == 0 and no_user_namespaces(_MACHINE) is None:
        raise _failure(errno.ENOSYS, _UNKNOWN)

    try:
        steps = _steps(config, uid, groups)

        if jobs.private_pids:
            pid_namespaces()
    except OSError as error:
        why = lack_of(error) or f"{error}"
        raise _failure(
            error.errno or errno.EIO,
            f"the job's isolation cannot be prepared: {why}; try again later",
        ) from error

    return Namespaces(
        steps, own_pids=jobs.private_pids, own_network=jobs.private_network
    )


def _steps(config: Config, uid: int, groups: Iterable[int]) -> tuple[Step, ...]:
    table = _TABLE.read_bytes()
    covered = tuple(filter(Path.is_dir, (config.state_dir, config.certs)))
    common = _common_steps(
        table,
        covered,
        is_root=uid == 0,
        own_processes=config.jobs.private_pids,
        tmp_size=config.jobs.tmp_size,
    )
    own = mounting.own_groups(mounting.read_mounts(table), _directories(groups))
    return common + tuple(own)


@lru_cache(maxsize=2)  # for root and for the others
def _common_steps(
    table: bytes,
    covered: Iterable[Path],
    *,
    is_root: bool,
    own_processes: bool,
    tmp_size: int,
) -> tuple[Step, ...]:
    mounts = mounting.read_mounts(table)
    steps = mounting.detach(mounts)

    if own_processes:
        steps += mounting.own_processes()

    steps += mounting.read_only(mounts, own_processes=own_processes)
    steps += mounting.covers(covered)

    if is_root:
        # Who may open everything would read disks, and so what is covered.
        steps += mounting.own_devices()
    else:
        steps += mounting.own_terminals()

    return tuple(steps + mounting.own_scratch(tmp_size))


def _directories(groups: Iterable[int]) -> list[bytes]:
    return [
        os.path.dirname(os.readlink(b"/proc/self/fd/%d" % fd))  # noqa: PTH115, PTH120  bytes
        for fd in groups
    ]


def _failure(number: int, message: str) -> LaunchError:
    return LaunchError(LaunchFailure(LaunchStage.ISOLATION, number, message))


def _has_root(jobs: JobsConfig) -> bool:
    def is_root(name: str) -> bool:
        try:
            return pwd.getpwnam(name).pw_uid == 0
        except (KeyError, ValueError):
            return False

    return any(map(is_root, {jobs.user}.union(*jobs.users.values())))


def _try(namespaces: Namespaces) -> str | None:
    """Return why a child of ours cannot enter *namespaces*; None if one did."""
    listen, report = os.pipe2(os.O_CLOEXEC)
    own_pids = namespaces.own_pids

    with pid_namespaces().for_next_fork() if own_pids else nullcontext():
        child = os.fork()

    if child == 0:
        _enter_and_exit(namespaces, report)

    os.close(report)

    try:
        ready, _, _ = select.select([listen], [], [], _TRIAL)
        text = os.read(listen, _TEXT).decode() if ready else "it takes too long"
    finally:
        os.close(listen)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

    return text or None


def _enter_and_exit(namespaces: Namespaces, report: int) -> None:
    """Be a child that tells why it cannot enter them, nothing if it did."""
    try:
        namespaces.enter()
    except OSError as error:
        what = os.fsdecode(error.filename)
        os.write(report, explain(what, error.errno or errno.EIO).encode()[:_TEXT])
    finally:
        os._exit(0)
