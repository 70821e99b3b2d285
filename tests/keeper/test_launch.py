"""Why a command could not be started: the stage, the errno, a sentence."""

import errno
import os
import signal
from typing import Any, Final

import pytest

from teleworkerd.keeper.messages import JobLost
from teleworkerd.keeper.orders import SignalJob
from teleworkerd.protocol.spec import Limits
from teleworkerd.protocol.status import LaunchFailure
from teleworkerd.protocol.types import LaunchStage
from tests.e2e.groups import left_of
from tests.keeper.kept import (
    KeeperProcess,
    Place,
    children_of,
    is_alive,
    with_jobs,
)


SCRIPTS: Final = {
    "text": (b"no program\n", 0o755),
    "empty": (b"", 0o755),
    "interpreter": (b"#!/no/such/interpreter\n", 0o755),
    "plain": (b"#!/bin/sh\n", 0o644),
    "foreign": (b"\x7fELF\x02\x02\x01" + bytes(57), 0o755),
}

# The command (a name above, or its argv[0]), the errno, words of the message.
EXEC: Final = {
    "not in PATH": ("teleworker-no-such", errno.ENOENT, "not found in PATH"),
    "missing": ("/no/such/program", errno.ENOENT, "/no/such/program"),
    "below a file": ("/etc/passwd/x", errno.ENOTDIR, "Not a directory"),
    "directory": ("/etc", errno.EACCES, "is a directory"),
    "not executable": ("plain", errno.EACCES, "user nobody may not execute it"),
    "no interpreter": ("interpreter", errno.ENOENT, "interpreter does not"),
    "no #!": ("text", errno.ENOEXEC, "begins with #!"),
    "empty file": ("empty", errno.ENOEXEC, "begins with #!"),
    "other machine": ("foreign", errno.ENOEXEC, "no program of this machine"),
    "long name": ("/" + "x" * 300, errno.ENAMETOOLONG, "too long"),
}


@pytest.fixture(scope="module", autouse=True)
def scripts(shared_place: Place) -> None:
    """Files that cannot be run, each for its own reason."""
    for name, (text, mode) in SCRIPTS.items():
        shared_place.script(text, name=name, mode=mode)


@pytest.mark.parametrize("case", EXEC)
def test_exec(keeper: KeeperProcess, shared_place: Place, case: str) -> None:
    """What execve refuses is told with its errno, the command and the reason."""
    command, number, words = EXEC[case]

    if command in SCRIPTS:
        command = str(shared_place.shared / command)

    failure = keeper.launch(command).failed()

    assert (failure.stage, failure.errno) == (LaunchStage.EXEC, number)
    assert words in failure.message
    assert command[:40] in failure.message


def test_arguments_that_are_too_big(place: Place) -> None:
    """The kernel's limit on arguments follows the stack: E2BIG says so."""
    change = (
        "import resource; _, hard = resource.getrlimit(resource.RLIMIT_STACK);"
        "resource.setrlimit(resource.RLIMIT_STACK, (512 << 10, hard))"
    )

    with KeeperProcess(place.config(), change=change) as keeper:
        failure = keeper.launch("true", *["x" * 1000] * 300).failed()

    assert (failure.stage, failure.errno) == (LaunchStage.EXEC, errno.E2BIG)


def test_largest_arguments(keeper: KeeperProcess) -> None:
    """A megabyte of arguments is taken, each as long as the kernel allows."""
    record, text = keeper.run(
        "sh", "-c", "echo $# ${#1}", "sh", *["x" * (128 * 1024 - 1)] * 7
    )

    assert (record.exit_code, text) == (0, b"7 131071\n")


@pytest.mark.parametrize(
    "spec",
    [
        {"command": (b"/" + b"n" * 100_000,)},
        {"command": (b"true",), "workdir": b"/" + b"w" * 100_000},
        {"command": (b"no-such",), "env": {b"PATH": b"/p" * 2000}},
        {"command": (b"no-such",), "env": {b"PATH": b"/\xff\xfe"}},
        {"command": (b"/no/\xff\xfe\n\x1b",)},
        {"command": (b"true",), "workdir": b"/no/\xff\xfe"},
    ],
    ids=["program", "workdir", "PATH", "odd PATH", "odd program", "odd workdir"],
)
def test_names_that_no_message_holds(
    keeper: KeeperProcess, spec: dict[str, Any]
) -> None:
    """A failure is told whatever the names in it are, and the keeper goes on."""
    command = spec["command"]
    rest = {name: value for name, value in spec.items() if name != "command"}
    failure = keeper.launch(*command, **rest).failed()

    assert len(failure.message) < 1000
    assert failure.message.isprintable()


def test_environment_is_not_told(keeper: KeeperProcess) -> None:
    """What a client has set, PATH too, is in no message, for messages are logged."""
    own = keeper.launch("no-such", env={b"PATH": b"/se:/cret"}).failed()
    default = keeper.launch("no-such").failed()

    assert own.message.endswith("not found in the PATH that the job was given")
    assert "not found in PATH '/" in default.message


def test_account(place: Place) -> None:
    """An account that does not exist is named, with the setting to look at."""
    config = with_jobs(place.config(), user="no-such-user")

    with KeeperProcess(config) as keeper:
        failure = keeper.launch("true").failed()

    assert (failure.stage, failure.errno) == (LaunchStage.USER, errno.ENOENT)
    assert "'no-such-user'" in failure.message
    assert "[jobs]" in failure.message


def test_account_by_owner(place: Place) -> None:
    """Who has an account of his own gets it; the others get the usual one."""
    config = with_jobs(place.config(), users={"root-of-all": ("root",)})

    with KeeperProcess(config) as keeper:
        job = keeper.launch("id", "-un", owner="root-of-all")
        launched = job.launched().launched
        job.exited()
        _, other = keeper.run("id", "-un")

    assert (launched.user, job.output()) == ("root", b"root\n")
    assert other == b"nobody\n"


@pytest.mark.parametrize(
    ("name", "number"),
    [("missing", errno.ENOENT), ("file", errno.ENOTDIR), ("private", errno.EACCES)],
)
def test_workdir(
    keeper: KeeperProcess, shared_place: Place, name: str, number: int
) -> None:
    """A workdir must be one that the account, not root, may enter."""
    (shared_place.shared / "file").touch()
    (shared_place.shared / "private").mkdir(mode=0o700, exist_ok=True)
    path = shared_place.shared / name
    failure = keeper.launch("true", workdir=os.fsencode(path)).failed()

    assert (failure.stage, failure.errno) == (LaunchStage.WORKDIR, number)
    assert str(path) in failure.message


def test_limit_that_no_group_can_hold(place: Place) -> None:
    """A group that cannot be made is a failure of its own stage; nothing runs."""
    change = (
        "from teleworkerd.cgroups.v1 import V1Driver\n"
        "create = V1Driver.create\n"
        "V1Driver.create = lambda self, job, *a, **k: create(self, 'a/b', *a, **k)"
    )

    with KeeperProcess(place.config(), change=change) as keeper:
        failure = keeper.launch("true", limits=Limits(mem=8)).failed()

    assert (failure.stage, failure.errno) == (LaunchStage.CGROUP, errno.EINVAL)


def test_group_that_cannot_be_joined(place: Place) -> None:
    """A process that does not get into its group never becomes the command."""
    change = (
        "import os; from teleworkerd.cgroups.tracking import GroupTree\n"
        "GroupTree.open_procs = lambda self: [os.open('/dev/full', os.O_WRONLY)]"
    )

    with KeeperProcess(place.config(), change=change) as keeper:
        job = keeper.launch("touch", str(place.shared / "ran"))
        failure = job.failed()

    assert (failure.stage, failure.errno) == (LaunchStage.CGROUP, errno.ENOSPC)
    assert "could not be joined" in failure.message
    assert not (place.shared / "ran").exists()


def test_spool(place: Place) -> None:
    """Without a place for the output nothing is started."""
    with KeeperProcess(place.config()) as keeper:
        keeper.config.jobs_dir.rmdir()
        failure = keeper.launch("touch", str(place.shared / "ran")).failed()

    assert (failure.stage, failure.errno) == (LaunchStage.SPOOL, errno.ENOENT)
    assert not (place.shared / "ran").exists()


def test_fork(place: Place) -> None:
    """A process that cannot be made is told as such."""
    change = (
        "import errno, os, subprocess\n"
        "def fork(*_):\n"
        "    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))\n"
        "subprocess._fork_exec = fork"
    )

    with KeeperProcess(place.config(), change=change) as keeper:
        failure = keeper.launch("true").failed()

    assert (failure.stage, failure.errno) == (LaunchStage.FORK, errno.EAGAIN)
    assert "no process could be made" in failure.message


def test_no_descriptor_left_after_fork(place: Place) -> None:
    """A command that runs, but cannot be waited for, does not run on unseen."""
    change = (
        "import errno, os\n"
        "def pidfd_open(*_):\n"
        "    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))\n"
        "os.pidfd_open = pidfd_open"
    )

    with KeeperProcess(place.config(), change=change) as keeper:
        job = keeper.launch("sleep", "100")
        lost = keeper.expect(JobLost)
        running = {pid for pid in children_of(keeper.pid) if is_alive(pid)}
        left = left_of([job.id])

    assert os.strerror(errno.EMFILE) in lost.why
    assert running == set()
    assert left == []


def test_too_few_descriptors(place: Place) -> None:
    """A keeper at its limit refuses, and works again when it has some."""
    with KeeperProcess(
        place.config(),
        change="import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))",
    ) as keeper:
        jobs = [keeper.launch("sleep", "100") for _ in range(12)]
        failures: list[LaunchFailure] = []
        running = []

        for job in jobs:
            if (failure := keeper.outcome(job)) is not None:
                failures.append(failure)
            else:
                running.append(job)

        for job in running:
            keeper.send(SignalJob(job.id, signal.SIGKILL, tree=True))
            job.exited()

        record, text = keeper.run("echo", "again")

    assert {failure.errno for failure in failures} == {errno.EMFILE}
    assert running
    assert (record.exit_code, text) == (0, b"again\n")


def test_no_descriptor_leaks(place: Place) -> None:
    """200 launches, most of which fail each in its own way, leave none open."""
    config = with_jobs(place.config(), users={"stranger": ("no-such-user",)})
    text = place.script(b"no program\n")
    (place.shared / "private").mkdir(mode=0o700)
    private = os.fsencode(place.shared / "private")

    with KeeperProcess(config) as keeper:
        keeper.run("true")
        before = keeper.open_files()

        for _ in range(50):
            good = keeper.launch("true")
            keeper.launch(text).failed()
            keeper.launch("true", workdir=private).failed()
            keeper.launch("true", owner="stranger").failed()
            good.exited()

        after = keeper.open_files()
        left = children_of(keeper.pid)

    assert [kind_of(name) for name in after] == [kind_of(name) for name in before]
    assert left == set()


def kind_of(name: str) -> str:
    """Return what a descriptor is, without the number of its inode."""
    return name.partition(":")[0]


def test_directories_of_failed_launches(keeper: KeeperProcess) -> None:
    """What could not be started leaves no groups, and says why in its directory."""
    job = keeper.launch("/no/such/program")
    failure = job.failed()
    found = job.directory.read_failure()

    assert left_of([job.id]) == []
    assert found is not None
    assert found.failure == failure
    assert not job.directory.exit.exists()
