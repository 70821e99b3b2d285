"""What a job finds around it, and what it does not find."""

import grp
import os
import pwd
import re
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from teleworkerd.keeper.orders import SignalJob
from teleworkerd.keeper.syscalls import permitted_capabilities
from teleworkerd.protocol.types import Stream
from teleworkerd.settings import JobsConfig
from tests.keeper.kept import KeeperProcess, Place, environment_of


Status = Mapping[str, str]

# As a service manager may start it: what it has is inheritable, and one ambient.
INHERITABLE: Final = """
import ctypes
from teleworkerd.keeper import syscalls
held = syscalls.permitted_capabilities()
low, high = held & 0xFFFF_FFFF, held >> 32
syscalls.set_capabilities(syscalls._SETS.pack(low, low, low, high, high, high))
assert ctypes.CDLL(None).prctl(47, 2, 0, 0, 0) == 0  # PR_CAP_AMBIENT_RAISE, CHOWN
"""
HELD: Final = permitted_capabilities()


@pytest.fixture(scope="module")
def status(keeper: KeeperProcess) -> Status:
    """What the kernel says of a job, as /proc/self/status has it."""
    record, text = keeper.run("cat", "/proc/self/status")
    assert record.exit_code == 0
    lines = (line.partition(":\t") for line in text.decode().splitlines())
    return {name: value.strip() for name, _, value in lines}


def ignored(mask: str | bytes) -> int:
    """Return *mask* without 32 and 33, which glibc keeps for its threads.

    Its posix_spawn, which make uses, leaves them ignored in every descendant; no
    program can send or catch them.
    """
    return int(mask, 16) & ~(0b11 << 31)


def capabilities(status: str) -> Mapping[str, int]:
    """Return the sets by their names in /proc/self/status."""
    pairs = (line.split(":\t") for line in status.splitlines() if line[:3] == "Cap")
    return {name: int(value, 16) for name, value in pairs}


def test_no_signal_is_blocked(status: Status) -> None:
    """A job begins with an empty mask."""
    assert int(status["SigBlk"], 16) == 0


def test_no_signal_is_ignored(status: Status) -> None:
    """Python ignores SIGPIPE, and the keeper SIGINT; a job gets neither."""
    assert ignored(status["SigIgn"]) == 0


def test_umask(status: Status) -> None:
    """What a job makes is readable, whatever the daemon's own umask is."""
    assert int(status["Umask"], 8) == 0o022


def test_account(status: Status) -> None:
    """All four ids are the account's, so that nothing can be taken back."""
    account = pwd.getpwnam("nobody")

    assert status["Uid"].split() == [str(account.pw_uid)] * 4
    assert status["Gid"].split() == [str(account.pw_gid)] * 4


def test_groups(status: Status) -> None:
    """The supplementary groups are exactly the account's; root's are gone."""
    account = pwd.getpwnam("nobody")

    assert set(map(int, status["Groups"].split())) == set(
        os.getgrouplist("nobody", account.pw_gid)
    )


def test_no_new_privileges(status: Status) -> None:
    """A setuid program gives a job nothing."""
    assert status["NoNewPrivs"] == "1"


def test_no_capabilities(status: Status) -> None:
    """An account other than root has no capability left."""
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0


def test_no_capabilities_to_gain(status: Status) -> None:
    """Nor is any left that a program could give it."""
    for name in ("CapBnd", "CapInh", "CapAmb"):
        assert int(status[name], 16) == 0


@pytest.mark.parametrize(("user", "bounding"), [("root", HELD), ("nobody", 0)])
def test_capabilities_of_the_keeper(place: Place, user: str, bounding: int) -> None:
    """What the keeper could pass on it does not, whatever it was started with."""
    with KeeperProcess(
        place.config(JobsConfig(user=user)), change=INHERITABLE
    ) as keeper:
        _, text = keeper.run("cat", "/proc/self/status")
        keepers = Path(f"/proc/{keeper.pid}/status").read_text()

    found = capabilities(text.decode())
    assert capabilities(keepers)["CapAmb"] != 0
    assert (found["CapInh"], found["CapAmb"]) == (0, 0)
    assert found["CapBnd"] == bounding


def test_setuid(place: Place) -> None:
    """A setuid program runs as the job's account."""
    program = place.shared / "id"
    shutil.copy(shutil.which("id") or "/usr/bin/id", program)
    program.chmod(0o755 | stat.S_ISUID)

    with KeeperProcess(place.config()) as keeper:
        _, text = keeper.run(str(program), "-u")

    assert int(text) == pwd.getpwnam("nobody").pw_uid


def test_several_groups(place: Place) -> None:
    """An account with supplementary groups gets each of them."""
    members = {
        name: group.gr_gid
        for group in grp.getgrall()
        for name in group.gr_mem
        if name != "root"
    }
    name = next(iter(members), None)

    if name is None:
        pytest.skip("no account of this host has a supplementary group")

    with KeeperProcess(place.config(JobsConfig(user=name))) as keeper:
        _, text = keeper.run("/usr/bin/id", "-G")

    wanted = os.getgrouplist(name, pwd.getpwnam(name).pw_gid)
    assert set(map(int, text.split())) == set(wanted)


def test_own_session(keeper: KeeperProcess) -> None:
    """A job leads its own session and process group."""
    job = keeper.launch("cat", "/proc/self/stat")
    pid = job.launched().launched.pid
    job.exited()
    fields = job.output().rpartition(b")")[2].split()

    assert (int(fields[2]), int(fields[3])) == (pid, pid)


def test_three_descriptors(keeper: KeeperProcess) -> None:
    """Nothing but 0, 1 and 2 is open in a job."""
    job = keeper.launch("sleep", "60")
    pid = job.launched().launched.pid
    found = sorted(entry.name for entry in Path(f"/proc/{pid}/fd").iterdir())
    keeper.send(SignalJob(job.id, 9, tree=False))
    job.exited()

    assert found == ["0", "1", "2"]


def test_stdin_is_empty(keeper: KeeperProcess) -> None:
    """A job that reads its stdin finds the end at once."""
    record, text = keeper.run("cat")

    assert (record.exit_code, text) == (0, b"")


def test_outputs_are_pipes(keeper: KeeperProcess) -> None:
    """Standard output and error are pipes, not sockets."""
    script = "readlink /proc/$$/fd/1 /proc/$$/fd/2"
    _, text = keeper.run("sh", "-c", script)

    assert [line.partition(b":")[0] for line in text.split()] == [b"pipe", b"pipe"]


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_outputs_can_be_opened(keeper: KeeperProcess, name: str) -> None:
    """A job may open its output by name, although it is not the daemon's account."""
    record, text = keeper.run("sh", "-c", f"echo x > {name}")

    assert (record.exit_code, text) == (0, b"x\n")


def test_error_output_can_be_opened(keeper: KeeperProcess) -> None:
    """So may it open its error output."""
    job = keeper.launch("sh", "-c", "echo x > /dev/stderr")
    job.launched()

    assert job.exited().exit_code == 0
    assert job.output(Stream.STDERR) == b"x\n"


def test_clean_environment(keeper: KeeperProcess) -> None:
    """Nothing of the daemon's environment is inherited."""
    job = keeper.launch("/usr/bin/env", "-0")
    job.launched()
    job.exited()
    found = environment_of(job.output())

    assert found == {
        b"PATH": b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        b"HOME": pwd.getpwnam("nobody").pw_dir.encode(),
        b"USER": b"nobody",
        b"LOGNAME": b"nobody",
        b"SHELL": pwd.getpwnam("nobody").pw_shell.encode(),
        b"LANG": b"C.UTF-8",
        b"TELEWORKER_JOB_ID": job.id.encode(),
        b"TELEWORKER_OWNER": b"alice",
    }


def test_environment_is_binary(keeper: KeeperProcess) -> None:
    """Variables are bytes, and may replace those of the account."""
    _, text = keeper.run("/usr/bin/env", "-0", env={b"X\xff": b"\xfe=\n", b"USER": b""})
    found = environment_of(text)

    assert (found[b"X\xff"], found[b"USER"]) == (b"\xfe=\n", b"")


def test_environment_names_the_job(keeper: KeeperProcess) -> None:
    """A request cannot give a job another id or owner."""
    forged = {b"TELEWORKER_JOB_ID": b"other", b"TELEWORKER_OWNER": b"bob"}
    job = keeper.launch("/usr/bin/env", "-0", env=forged)
    job.launched()
    job.exited()
    found = environment_of(job.output())

    assert found[b"TELEWORKER_JOB_ID"] == job.id.encode()
    assert found[b"TELEWORKER_OWNER"] == b"alice"


def test_arguments_are_binary(keeper: KeeperProcess) -> None:
    """Arguments reach the command byte for byte, empty ones too."""
    _, text = keeper.run("printf", "%s|", b"\xff\xfe", "", "a b", "\n", "é")

    assert text == b"\xff\xfe||a b|\n|" + "é|".encode()


def test_limit_of_open_files(place: Place) -> None:
    """What the keeper raised for itself does not reach the job."""
    change = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 900))"

    with KeeperProcess(place.config(), change=change) as keeper:
        _, text = keeper.run("sh", "-c", "ulimit -Sn; ulimit -Hn")
        limits = Path(f"/proc/{keeper.pid}/limits").read_text()

    assert text.split() == [b"200", b"900"]
    assert re.search(r"open files +900 +900 ", limits)


def test_no_core_files(place: Place) -> None:
    """A job leaves none, unless it raises the limit, which is left where it was."""
    change = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (100, 4096))"

    with KeeperProcess(place.config(), change=change) as keeper:
        _, text = keeper.run("grep", "core file", "/proc/self/limits")

    assert text.split()[-3:] == [b"0", b"4096", b"bytes"]


def test_other_limits(keeper: KeeperProcess) -> None:
    """All other limits are those that the daemon was started with."""
    _, text = keeper.run("cat", "/proc/self/limits")
    changed = ("Max core file size", "Max open files")
    found, ours = (
        [line for line in each.splitlines() if not line.startswith(changed)]
        for each in (text.decode(), Path("/proc/self/limits").read_text())
    )

    assert found == ours


def test_ignored_and_blocked_signals_of_the_parent(place: Place) -> None:
    """Whatever the daemon was started with, as by nohup, is not for its jobs."""
    change = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN);"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})"
    )

    with KeeperProcess(place.config(), change=change) as keeper:
        _, text = keeper.run("grep", "-E", "Sig(Blk|Ign)", "/proc/self/status")

    assert [ignored(line.split()[1]) for line in text.splitlines()] == [0, 0]


def test_workdir(keeper: KeeperProcess, shared_place: Place) -> None:
    """A job begins where it was told to."""
    _, text = keeper.run("pwd", workdir=os.fsencode(shared_place.shared))

    assert text == os.fsencode(shared_place.shared) + b"\n"


def test_home_that_does_not_exist(keeper: KeeperProcess) -> None:
    """Without a home a job begins at the root."""
    _, text = keeper.run("pwd")

    assert text == b"/\n"
