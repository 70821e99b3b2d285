"""Private jobs are jobs in all else; and why one cannot be private."""

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from teleworkerd.keeper.orders import SignalJob, StopJob
from teleworkerd.protocol.spec import Limits, TerminalSize
from teleworkerd.protocol.types import LaunchStage, Reason
from tests.e2e.groups import left_of
from tests.keeper.isolated import ROOTS, VisiblePlace, end, private, shell, start
from tests.keeper.kept import KeeperProcess, children_of, eventually, is_alive


NO_SYS_ADMIN: Final = """
from teleworkerd.keeper import syscalls
held = syscalls.permitted_capabilities()
syscalls.set_capabilities(syscalls.capability_sets(held & ~(1 << 21)))
"""
NO_PIDS: Final = """
from teleworkerd.keeper import namespaces
def unshare(flags, usual=namespaces.unshare):
    if flags & namespaces.CLONE_NEWPID:
        raise OSError(28, "No space left on device")
    usual(flags)
namespaces.unshare = unshare
"""
NO_SCOPES: Final = """
from teleworkerd.keeper import privileges
def scope(scopes):
    raise OSError(7, "Argument list too long")
privileges.scope = scope
privileges.can_scope = lambda: True
"""
SHARED_MOUNTS: Final = """
from teleworkerd.keeper import mounts, namespaces, syscalls
syscalls.unshare(namespaces.CLONE_NEWNS)
syscalls.mount(None, b"/", None, mounts.MS_REC | mounts.MS_PRIVATE, None)
syscalls.mount(None, b"/", None, mounts.MS_REC | 1 << 20, None)  # MS_SHARED
"""
NO_TMP: Final = """
from teleworkerd.keeper import mounts
def mount(source, target, *rest, usual=mounts.mount):
    if target == b"/tmp":
        raise OSError(12, "Cannot allocate memory")
    usual(source, target, *rest)
mounts.mount = mount
"""


@pytest.fixture(scope="module")
def place() -> Iterator[VisiblePlace]:
    """Directories that private jobs see."""
    directories = VisiblePlace()
    yield directories
    directories.remove()


@pytest.fixture
def own_place() -> Iterator[VisiblePlace]:
    """Directories for a keeper of the test's own."""
    directories = VisiblePlace()
    yield directories
    directories.remove()


@pytest.fixture(scope="module", params=["shared pids", "private pids"])
def keeper(
    place: VisiblePlace, request: pytest.FixtureRequest
) -> Iterator[KeeperProcess]:
    """A keeper of private jobs, without and with a PID namespace for each."""
    jobs = private(private_pids=request.param == "private pids")

    with KeeperProcess(place.config(jobs)) as running:
        yield running


@pytest.mark.parametrize("code", [0, 1, 127, 255])
def test_exit_code(keeper: KeeperProcess, code: int) -> None:
    """The exit code is the command's."""
    record, _, _ = shell(keeper, f"exit {code}")

    assert (record.exit_code, record.signal) == (code, None)


def test_output_is_complete(keeper: KeeperProcess) -> None:
    """All is kept of both streams, by whichever process it was written."""
    script = "seq 200000; (seq 1000 >&2)& wait; printf end"

    record, out, err = shell(keeper, script)

    assert record.exit_code == 0
    assert out == "".join(f"{n}\n" for n in range(1, 200_001)) + "end"
    assert err == "".join(f"{n}\n" for n in range(1, 1001))


def test_kill(keeper: KeeperProcess) -> None:
    """SIGKILL ends it, and the record says by what."""
    job, _ = start(keeper, "true")
    keeper.send(SignalJob(job.id, signal.SIGKILL, tree=False))

    record = job.exited()

    assert record.signal == signal.SIGKILL


def test_signal_with_a_handler(keeper: KeeperProcess) -> None:
    """A signal that the command handles reaches it."""
    job = keeper.launch("sh", "-c", "trap 'exit 9' USR1; echo up; while :; do :; done")
    job.launched()
    job.wait_for_output(b"up\n")
    keeper.send(SignalJob(job.id, signal.SIGUSR1, tree=False))

    assert job.exited().exit_code == 9


@pytest.mark.parametrize("trap", ["trap 'exit 4' TERM", "trap '' TERM"])
def test_stop(keeper: KeeperProcess, trap: str) -> None:
    """A stop is a SIGTERM, and a SIGKILL for whom that does not end in time."""
    job = keeper.launch("sh", "-c", f"{trap}; echo up; while :; do sleep 0.05; done")
    job.launched()
    job.wait_for_output(b"up\n")
    keeper.send(StopJob(job.id, Reason.KILLED, grace=0.3))

    record = job.exited()

    assert record.reason is Reason.KILLED
    assert (record.exit_code == 4) is ("exit" in trap)
    assert (record.signal == signal.SIGKILL) is ("exit" not in trap)


def test_whole_tree_ends(keeper: KeeperProcess) -> None:
    """What a job leaves behind is gone with it, its session or groups too."""
    job = keeper.launch("sh", "-c", "setsid sleep 300 & (sleep 300 &); echo up; exit 3")
    pid = job.launched().launched.pid
    record = job.exited()

    assert record.exit_code == 3
    assert left_of([job.id]) == []
    assert not is_alive(pid)
    eventually(lambda: not children_of(keeper.pid), what="no child")


def test_limits(keeper: KeeperProcess) -> None:
    """A job that needs more memory than its limit is ended for it."""
    record, _, _ = shell(
        keeper, "head -c 300M /dev/zero | tail -n 1 | wc -c", limits=Limits(mem=32)
    )

    assert record.usage.oom_kills


def test_command_that_does_not_exist(keeper: KeeperProcess) -> None:
    """It is told as for any other job."""
    failure = keeper.launch("teleworker-no-such").failed()

    assert (failure.stage, failure.errno) == (LaunchStage.EXEC, errno.ENOENT)


def test_command_in_tmp(keeper: KeeperProcess, tmp_path: Path) -> None:
    """A program of the machine's /tmp is not there, and the message says why."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    failure = keeper.launch(str(program)).failed()

    assert (failure.stage, failure.errno) == (LaunchStage.EXEC, errno.ENOENT)
    assert "directory of its own" in failure.message


@pytest.mark.parametrize("owner", ["alice", ROOTS])
def test_workdir_that_is_covered(
    keeper: KeeperProcess, place: VisiblePlace, owner: str
) -> None:
    """Nobody, nor root, begins in the daemon's own directories."""
    workdir = os.fsencode(place.state / "jobs")
    failure = keeper.launch("true", owner=owner, workdir=workdir).failed()

    assert failure.stage is LaunchStage.WORKDIR
    assert "cannot be entered" in failure.message


def test_workdir_in_tmp(keeper: KeeperProcess, tmp_path: Path) -> None:
    """A workdir of the machine's /tmp is not there, and the message says why."""
    failure = keeper.launch("true", workdir=os.fsencode(tmp_path)).failed()

    assert (failure.stage, failure.errno) == (LaunchStage.WORKDIR, errno.ENOENT)
    assert "directory of its own" in failure.message


@pytest.mark.parametrize("kind", ["mnt", "ipc", "uts", "cgroup"])
def test_own_namespaces(keeper: KeeperProcess, kind: str) -> None:
    """Each job has its own, and the keeper stays in the machine's."""
    job, pid = start(keeper, "true")
    first, keepers = (
        str(Path(f"/proc/{each}/ns/{kind}").readlink()) for each in (pid, keeper.pid)
    )
    _, second, _ = shell(keeper, f"readlink /proc/self/ns/{kind}")
    end(job)

    assert len({first, second.strip(), keepers}) == 3
    assert keepers == str(Path(f"/proc/self/ns/{kind}").readlink())


def test_nothing_is_mounted_outside(own_place: VisiblePlace) -> None:
    """The machine's mounts stay as they are, where they are shared with others too."""
    with KeeperProcess(own_place.config(private()), change=SHARED_MOUNTS) as keeper:
        table = Path(f"/proc/{keeper.pid}/mountinfo")
        before = table.read_text()
        start(keeper, "true")
        after = table.read_text()

    assert " shared:" in before
    assert after == before


def test_descriptors(keeper: KeeperProcess) -> None:
    """Private jobs cost the keeper no descriptor that stays."""
    shell(keeper, "true")
    before = keeper.open_files()

    for _ in range(20):
        shell(keeper, "true")
        keeper.launch("/no/such/program").failed()

    assert len(keeper.open_files()) == len(before)


def test_own_network(own_place: VisiblePlace) -> None:
    """With a network of its own a job has a loopback that is up, and no other."""
    script = "cat /proc/net/dev | tail -n +3 | cut -d: -f1; cat /proc/net/if_inet6"
    connect = (
        "import socket; s = socket.create_server(('127.0.0.1', 0));"
        "socket.create_connection(s.getsockname()); print('connected')"
    )

    with KeeperProcess(own_place.config(private(private_network=True))) as keeper:
        _, out, _ = shell(keeper, script)
        _, connected, _ = shell(keeper, f'/usr/bin/env python3 -c "{connect}"')

    assert out.split()[0] == "lo"
    assert [line.split()[-1] for line in out.splitlines()[1:]] in ([], ["lo"])
    assert connected == "connected\n"


@pytest.mark.parametrize(
    ("change", "what", "number"),
    [
        (NO_SYS_ADMIN, "PID namespace", errno.EPERM),
        (NO_PIDS, "PID namespace", errno.ENOSPC),
        (NO_TMP, "/tmp", errno.ENOMEM),
        (NO_SCOPES, "Landlock", errno.E2BIG),
    ],
    ids=["not privileged", "no PIDs", "no tmpfs", "no Landlock"],
)
def test_refused(own_place: VisiblePlace, change: str, what: str, number: int) -> None:
    """Where the kernel refuses, nothing runs, and the failure says what to do."""
    jobs = private(private_pids=True)

    with KeeperProcess(own_place.config(jobs), change=change) as keeper:
        job = keeper.launch("touch", str(own_place.shared / "ran"))
        failure = job.failed()

    assert (failure.stage, failure.errno) == (LaunchStage.ISOLATION, number)
    assert f": {what}: {os.strerror(number)}" in failure.message
    assert 'isolation = "none"' in failure.message
    assert not (own_place.shared / "ran").exists()
    assert left_of([job.id]) == []


def test_refused_without_pids(own_place: VisiblePlace) -> None:
    """That the namespaces themselves are refused is told as well."""
    with KeeperProcess(own_place.config(private()), change=NO_SYS_ADMIN) as keeper:
        failure = keeper.launch("true").failed()

    assert (failure.stage, failure.errno) == (LaunchStage.ISOLATION, errno.EPERM)
    assert ": namespaces: " in failure.message


@pytest.mark.parametrize("owner", ["alice", ROOTS])
def test_terminals_of_others(keeper: KeeperProcess, owner: str) -> None:
    """A private job has its own terminal, and sees that of no other job."""
    other = keeper.launch("sleep", "300", owner=owner, tty=TerminalSize())
    other.launched()
    script = (
        "test -t 0 && echo terminal; ls /dev/pts; echo there > /dev/tty;"
        " echo again > /dev/stdout"
    )
    record, out, _ = shell(keeper, script, owner=owner, tty=TerminalSize())
    end(other)

    assert record.exit_code == 0
    assert out.split() == ["terminal", "ptmx", "there", "again"]
