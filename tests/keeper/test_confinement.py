"""What a private job, of root even, cannot reach: limits, the daemon, the others."""

import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from teleworkerd.keeper.privileges import can_scope
from teleworkerd.protocol.spec import Limits
from teleworkerd.protocol.types import Reason
from tests.keeper.isolated import ROOTS, VisiblePlace, end, private, shell, start
from tests.keeper.kept import KeeperProcess


# chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service,
# net_raw, sys_chroot, audit_write, setfcap
DOCKERS: Final = 0x0000_0000_A004_25FB
NET_ADMIN: Final = 1 << 12

REFUSED: Final = re.compile(
    "operation not permitted|permission denied|must be superuser|read-only"
    "|no such file|not found|cannot create",
    re.IGNORECASE,
)

# None of them would change anything of the machine.
ATTEMPTS: Final = {
    "remount a hierarchy": "mount -o remount,bind,rw /sys/fs/cgroup/memory",
    "mount version 1": "mount -t cgroup -o memory none /mnt",
    "mount version 2": "mount -t cgroup2 none /mnt",
    "uncover a hierarchy": "umount /sys/fs/cgroup/memory",
    "uncover the state directory": "umount {state}",
    "uncover it lazily": "umount -l {state}",
    "uncover /tmp": "umount -l /tmp",
    "move a cover": "mount --move {state} /mnt",
    "bind the machine's root": "mount --bind / /mnt",
    "a mount namespace": "unshare -m true",
    "a user namespace": "unshare -U true",
    "groups in a user namespace": (
        "unshare -UrmC sh -c 'mount -t cgroup -o memory none /mnt'"
    ),
    "the namespaces of others": "nsenter -t {keeper} -m true",
    "a block device": "mknod {shared}/disk b 254 0",
    "a character device": "mknod {shared}/mem c 1 1",
    "core_pattern": "true > /proc/sys/kernel/core_pattern",
    "sysrq": "true > /proc/sysrq-trigger",
    "the kernel": "true > /sys/kernel/rcu_expedited",
    "the keeper's root": "ls /proc/{keeper}/root/",
    "the keeper's directory": "ls /proc/{keeper}/cwd/",
    "the keeper's memory": "head -c 1 /proc/{keeper}/mem",
    "the keeper's environment": "cat /proc/{keeper}/environ",
    "the keeper's descriptors": "readlink -v /proc/{keeper}/fd/2",
    "a spool": "cat {state}/jobs/*/stdout",
    "the lock": "cat {state}/lock",
}


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


@pytest.fixture(scope="module")
def keeper(place: VisiblePlace) -> Iterator[KeeperProcess]:
    """A keeper of private jobs."""
    with KeeperProcess(place.config(private())) as running:
        yield running


def status(keeper: KeeperProcess, *, owner: str) -> dict[str, str]:
    """Return what /proc/self/status of a job of *owner* says."""
    _, out, _ = shell(keeper, "cat /proc/self/status", owner=owner)
    pairs = (line.partition(":\t") for line in out.splitlines())
    return {name: value.strip() for name, _, value in pairs}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_root_cannot(keeper: KeeperProcess, place: VisiblePlace, attempt: str) -> None:
    """A private job of root is refused what would bring it out of its limits."""
    script = ATTEMPTS[attempt].format(
        state=place.state, shared=place.shared, keeper=keeper.pid
    )

    record, out, err = shell(keeper, script, owner=ROOTS)

    assert record.exit_code != 0
    assert out == ""
    assert REFUSED.search(err), err


@pytest.mark.v2
def test_root_cannot_leave_its_groups(keeper: KeeperProcess) -> None:
    """No `cgroup.procs` and no limit that it finds can be written, in any hierarchy."""
    script = (
        "cat /proc/self/cgroup; for file in $(find /sys/fs/cgroup -name cgroup.procs"
        " -o -name tasks -o -name memory.limit_in_bytes -o -name cpu.shares"
        " -o -name memory.max -o -name cpu.max -o -name cgroup.subtree_control);"
        " do true > $file && echo wrote $file; done;"
        " find /sys/fs/cgroup -name cgroup.procs | wc -l"
    )

    _, out, err = shell(keeper, script, owner=ROOTS, limits=Limits(mem=64))

    lines = out.splitlines()
    assert "wrote" not in out
    assert int(lines[-1]) >= 1
    assert "Read-only file system" in err


def test_root_cannot_outgrow_its_memory(keeper: KeeperProcess) -> None:
    """What a job of root keeps in its /tmp counts as its memory, and ends it."""
    script = "head -c 200M /dev/zero > /tmp/x; echo wrote; tail -c 1 /tmp/x"

    record, out, _ = shell(keeper, script, owner=ROOTS, limits=Limits(mem=32))

    assert record.reason is Reason.OOM or "wrote" not in out or record.exit_code
    assert record.usage.oom_kills


def test_own_groups(keeper: KeeperProcess) -> None:
    """A job finds its own limit where programs look for one."""
    script = (
        "cat /sys/fs/cgroup/memory$(sed -n s/.*:memory://p /proc/self/cgroup)"
        "/memory.limit_in_bytes"
    )

    _, out, _ = shell(keeper, script, limits=Limits(mem=64))

    assert int(out) == 64 << 20


def test_capabilities_of_root(keeper: KeeperProcess) -> None:
    """Root has in a private job what it has in a container, and never more."""
    found = status(keeper, owner=ROOTS)

    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(found[name], 16) == DOCKERS

    for name in ("CapInh", "CapAmb"):
        assert int(found[name], 16) == 0

    assert found["NoNewPrivs"] == "1"


def test_capabilities_with_a_network(own_place: VisiblePlace) -> None:
    """In a network of its own root may change that."""
    with KeeperProcess(own_place.config(private(private_network=True))) as keeper:
        found = status(keeper, owner=ROOTS)

    assert int(found["CapEff"], 16) == DOCKERS | NET_ADMIN


def test_no_disk(keeper: KeeperProcess) -> None:
    """No block device is there for root, who could read all that is covered."""
    _, out, err = shell(keeper, "find /dev -type b; ls /dev", owner=ROOTS)

    assert err == ""
    assert set(out.split()) == {
        *("fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin"),
        *("stdout", "tty", "urandom", "zero"),
    }


def test_devices_of_root(keeper: KeeperProcess) -> None:
    """Those that programs expect work, and so do the names of its own output."""
    script = (
        "echo x > /dev/null; head -c 1 /dev/zero | wc -c;"
        " head -c 1 /dev/urandom | wc -c; echo out > /dev/stdout;"
        " echo err > /dev/stderr; test -e /dev/ptmx"
    )

    record, out, err = shell(keeper, script, owner=ROOTS)

    assert (record.exit_code, out, err) == (0, "1\n1\nout\n", "err\n")


def test_other_accounts_keep_their_devices(keeper: KeeperProcess) -> None:
    """A job that is not root's has the machine's /dev, where the modes decide."""
    _, out, _ = shell(keeper, "ls /dev")

    assert {entry.name for entry in Path("/dev").iterdir()} <= set(out.split())


@pytest.mark.parametrize("owner", ["alice", ROOTS])
@pytest.mark.parametrize("directory", ["/tmp", "/var/tmp", "/dev/shm"])
def test_own_scratch(keeper: KeeperProcess, owner: str, directory: str) -> None:
    """What one job leaves in a directory for everybody no other one finds there."""
    first, _ = start(keeper, f"echo x > {directory}/secret", owner=owner)
    mode = f"stat -c %a {directory}"
    record, out, err = shell(keeper, f"{mode}; ls -A {directory}", owner=owner)
    outside = Path(directory, "secret").exists()
    end(first)

    assert (record.exit_code, out, err) == (0, "1777\n", "")
    assert not outside


@pytest.mark.parametrize("owner", ["alice", ROOTS])
@pytest.mark.skipif(not can_scope(), reason="needs the scopes of Landlock")
def test_processes_of_other_jobs(keeper: KeeperProcess, owner: str) -> None:
    """A job can neither look into one of the same account nor signal it."""
    first, pid = start(keeper, "echo x > /tmp/secret", owner=owner)
    script = (
        f"cat /proc/{pid}/root/tmp/secret; cat /proc/{pid}/environ; kill -9 {pid};"
        f" kill -9 {keeper.pid}"
    )
    _, out, err = shell(keeper, script, owner=owner)
    end(first)

    assert out == ""
    assert len(REFUSED.findall(err)) == 4


def test_state_directory_is_empty(keeper: KeeperProcess, place: VisiblePlace) -> None:
    """Root finds nothing in it, and cannot put anything there either."""
    script = f"ls -A {place.state}; echo x > {place.state}/x"

    record, out, _ = shell(keeper, script, owner=ROOTS)

    assert record.exit_code != 0
    assert out == ""


def test_nobody_has_nothing(keeper: KeeperProcess) -> None:
    """A job that is not root's has no capability, nor could it get any."""
    found = status(keeper, owner="alice")

    assert [int(found[name], 16) for name in found if name.startswith("Cap")] == [0] * 5
    assert found["NoNewPrivs"] == "1"


@pytest.mark.parametrize("pids", ["shared", "private"])
def test_setuid(own_place: VisiblePlace, pids: str) -> None:
    """A setuid program runs as the job's account."""
    program = own_place.shared / "id"
    shutil.copy(shutil.which("id") or "/usr/bin/id", program)
    program.chmod(0o755 | stat.S_ISUID)

    with KeeperProcess(
        own_place.config(private(private_pids=pids == "private"))
    ) as keeper:
        _, out, _ = shell(keeper, f"{program} -u")

    assert int(out) != 0


def test_user_namespace_of_nobody(keeper: KeeperProcess, place: VisiblePlace) -> None:
    """Who is root in a namespace of his own can uncover and unlock nothing there."""
    script = (
        "unshare -Urm sh -c '"
        f"umount -l {place.state}; ls {place.state};"
        " mount -o remount,bind,rw /sys/fs/cgroup/memory;"
        " echo 0 > /sys/fs/cgroup/memory/cgroup.procs && echo escaped'"
    )

    record, out, err = shell(keeper, script)

    assert record.exit_code != 0
    assert out == ""
    assert err
