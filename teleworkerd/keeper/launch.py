"""From a spec to a running process: what happens between fork and exec, and why not."""

import asyncio
import errno
import fcntl
import os
import resource
import signal
import stat
import subprocess
import termios
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from teleworkerd.execution import LaunchError, LaunchLost
from teleworkerd.keeper import isolation
from teleworkerd.keeper.account import Account
from teleworkerd.keeper.namespaces import Namespaces, pid_namespaces
from teleworkerd.keeper.privileges import Privileges
from teleworkerd.keeper.syscalls import own_session_keyring
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.status import LaunchFailure
from teleworkerd.protocol.types import LaunchStage
from teleworkerd.spare import LACKS


_AT_EXEC: Final = (LaunchStage.EXEC, 0, "")  # all that is left is to execute it
_STATUS_BYTES: Final = 4096
_AGAIN: Final = "; try again later"
_LIMITS: Final = {
    errno.EAGAIN: f"as many run as may run at once (pids.max, RLIMIT_NPROC){_AGAIN}",
    **{number: f"{lack}{_AGAIN}" for number, lack in LACKS.items()},
}
_OOM_SCORE: Final = Path("/proc/self/oom_score_adj")
_SHOWN: Final = 256  # characters of a name that a message repeats


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """Everything a launch needs, so that only system calls are left to do.

    *procs* are open `cgroup.procs`; *stdin*, *stdout* and *stderr* the job's own, a
    terminal if *has_terminal*. The caller closes them all.
    *account* is the job's own, which `change_account` says has to be changed to.
    *open_files* is the limit of descriptors that the job gets, soft and hard,
    *privileges* what it is left with, *namespaces* what it has of its own.
    """

    spec: JobSpec
    env: dict[bytes, bytes]
    account: Account
    change_account: bool
    procs: Sequence[int]
    stdin: int
    stdout: int
    stderr: int
    has_terminal: bool
    open_files: tuple[int, int]
    privileges: Privileges
    namespaces: Namespaces | None


class LaunchHook:
    """Runs in the new process between fork and exec; reports where it failed."""

    def __init__(self, plan: LaunchPlan, report: int) -> None:
        self._plan = plan
        self._report = report
        self._ignored = _ignored_signals()
        self._is_spared = int(_OOM_SCORE.read_bytes()) < 0

    def __call__(self) -> None:
        """Join the cgroups, become the account, forget what we inherited."""
        stage = LaunchStage.CGROUP

        try:
            for fd in self._plan.procs:
                os.write(fd, b"0")  # "0" is whoever writes

            if self._plan.has_terminal:
                # Already descriptor 0; so that Ctrl-C and hanging up mean something.
                fcntl.ioctl(0, termios.TIOCSCTTY, 0)

            stage = LaunchStage.ISOLATION

            if self._plan.namespaces is not None:
                self._plan.namespaces.enter()

            stage = LaunchStage.USER
            self._become()
            stage = LaunchStage.ISOLATION
            self._plan.privileges.confine()
            stage = LaunchStage.WORKDIR
            self._enter_workdir()
            stage = LaunchStage.EXEC
            self._reset_signals()
            self._tell(*_AT_EXEC)
        except OSError as error:
            is_named = stage is LaunchStage.ISOLATION
            what = os.fsdecode(error.filename)[:_SHOWN] if is_named else ""
            self._tell(stage, error.errno or 0, what)
            raise

    def _tell(self, stage: LaunchStage, number: int, what: str) -> None:
        os.write(self._report, os.fsencode(f"{stage} {number} {what}"))

    def _become(self) -> None:
        own_session_keyring()
        self._plan.privileges.limit()
        _limit_files(self._plan.open_files)
        os.umask(0o022)

        if self._is_spared:
            # The daemon is, when memory runs out; a job shall not be.
            score = os.open(_OOM_SCORE, os.O_WRONLY | os.O_CLOEXEC)
            os.write(score, b"0")
            os.close(score)

        if self._plan.change_account:
            account = self._plan.account

            # Or the job could not open /dev/stdout: a pipe, too, has an owner.
            for fd in range(3):
                if self._plan.has_terminal or stat.S_ISFIFO(os.fstat(fd).st_mode):
                    os.fchown(fd, account.uid, account.gid)

            os.setgroups(account.groups)
            os.setresgid(account.gid, account.gid, account.gid)
            os.setresuid(account.uid, account.uid, account.uid)

        self._plan.privileges.give_up()

    def _enter_workdir(self) -> None:
        # After the change of account, whose permissions count.
        if self._plan.spec.workdir is not None:
            os.chdir(self._plan.spec.workdir)
            return

        try:
            os.chdir(self._plan.account.home)
        except OSError:
            os.chdir("/")

    def _reset_signals(self) -> None:
        for number in self._ignored:
            signal.signal(number, signal.SIG_DFL)

        signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _limit_files(limits: tuple[int, int]) -> None:
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    except ValueError as error:
        # Somebody has lowered ours from outside.
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM)) from error


async def launch(plan: LaunchPlan) -> asyncio.subprocess.Process:
    """Start the command of *plan*; it runs when this returns.

    Raises `LaunchError` with the stage that failed, `LaunchLost` when the command
    ran and cannot be waited for.
    """
    try:
        listen, report = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise LaunchError(_explain_exec(plan, error)) from error

    own_pids = plan.namespaces is not None and plan.namespaces.own_pids

    try:
        # Up to the fork it does not wait, so that the fork is its own.
        with pid_namespaces().for_next_fork() if own_pids else nullcontext():
            return await asyncio.create_subprocess_exec(
                *plan.spec.command,
                stdin=plan.stdin,
                stdout=plan.stdout,
                stderr=plan.stderr,
                env=plan.env,
                start_new_session=True,
                preexec_fn=LaunchHook(plan, report),
            )
    except subprocess.SubprocessError:
        raise LaunchError(_explain_hook(plan, _read_report(listen))) from None
    except OSError as error:
        # The name of the file is there when it was exec that failed.
        if error.filename is None and _read_report(listen) == _AT_EXEC:
            raise LaunchLost(
                f"it ran, but could not be waited for: {os.strerror(error.errno or 0)}"
            ) from error

        raise LaunchError(_explain_exec(plan, error)) from error
    finally:
        os.close(listen)
        os.close(report)


@cache
def _ignored_signals() -> tuple[int, ...]:
    # A keeper ignores from its start what it ever does; to ask takes a while.
    return tuple(
        number
        for number in signal.valid_signals()
        if signal.getsignal(number) is signal.SIG_IGN
    )


def _read_report(fd: int) -> tuple[LaunchStage, int, str]:
    try:
        report = os.fsdecode(os.read(fd, _STATUS_BYTES))
        stage, number, what = report.split(" ", 2)
    except (BlockingIOError, ValueError):
        return LaunchStage.FORK, errno.ECHILD, ""

    return LaunchStage(stage), int(number), what


def _explain_hook(
    plan: LaunchPlan, report: tuple[LaunchStage, int, str]
) -> LaunchFailure:
    stage, number, what = report
    why = os.strerror(number)

    match stage:
        case LaunchStage.CGROUP:
            message = f"the job's cgroup could not be joined: {why}"
        case LaunchStage.ISOLATION:
            message = isolation.explain(what, number)
        case LaunchStage.USER:
            message = f"cannot become user {plan.account.name}: {why}"
        case LaunchStage.WORKDIR:
            workdir = plan.spec.workdir or b"/"
            message = (
                f"workdir {_show(workdir)} cannot be entered: {why}"
                f"{_say_hidden(plan, workdir)}"
            )
        case _:
            message = f"the process ended before the command ran: {why}"

    return LaunchFailure(stage, number, message)


def _say_hidden(plan: LaunchPlan, path: bytes) -> str:
    """Return what is to be added if the job has another directory there than we."""
    if plan.namespaces is None or not isolation.hides(path):
        return ""

    return "; an isolated job has a directory of its own there, which is empty"


def _explain_exec(plan: LaunchPlan, error: OSError) -> LaunchFailure:
    number = error.errno or errno.EIO

    # What is missing for a process names a file too: /dev/null is its stdin.
    if error.filename is None or number in LACKS:
        why = _LIMITS.get(number, os.strerror(number))
        message = f"no process could be made: {why}"
        return LaunchFailure(LaunchStage.FORK, number, message)

    program = os.fsdecode(plan.spec.command[0])
    has_path = "/" in program

    if number == errno.ENOENT and not has_path:
        # What the client has set is not for the log.
        own = plan.spec.env.get(b"PATH")
        default = _show(plan.env.get(b"PATH", b""))
        where = f"PATH {default}" if own is None else "the PATH that the job was given"
        why = f"command not found in {where}"
    elif number == errno.ENOENT and _say_hidden(plan, plan.spec.command[0]):
        why = f"{os.strerror(number)}{_say_hidden(plan, plan.spec.command[0])}"
    elif number == errno.ENOENT and program.startswith("/") and os.path.exists(program):  # noqa: PTH110  bytes-safe
        why = "it exists, but its interpreter does not"
    elif number == errno.EACCES:
        # Which of them root could see; the user may not be told.
        why = f"it is a directory, or user {plan.account.name} may not execute it"
    elif number == errno.ENOEXEC:
        why = "it is no program of this machine, nor a script that begins with #!"
    else:
        why = os.strerror(number)

    name = _show(plan.spec.command[0])
    return LaunchFailure(LaunchStage.EXEC, number, f"cannot run {name}: {why}")


def _show(name: bytes) -> str:
    text = os.fsdecode(name)
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}…"
