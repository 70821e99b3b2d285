"""The daemon without root, and without cgroups: it serves, but refuses limits."""

import importlib
import pwd
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.commandline import Twctl
from tests.e2e.daemon import Daemon, Place, StartDaemon
from tests.e2e.pki import ROOT, Certificates


# The shell between lets the right to go anywhere end before the program is looked up.
NOBODY: Final = (
    *("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"),
    *("sh", "-c", 'exec "$@"', "sh"),
)
NEEDED: Final = "import msgpack, uvloop, teleworkerd, teleworkerd.main"


@pytest.fixture(scope="module")
def unprivileged() -> tuple[Sequence[str], dict[str, str]]:
    """A command for `teleworkerd` as nobody, and its environment.

    This interpreter may be where nobody cannot go; then the system's own runs
    the daemon with this one's packages, if it is of the same version.
    """
    packages = {
        str(Path(str(importlib.import_module(name).__file__)).parents[1])
        for name in ("msgpack", "uvloop")
    }
    environment = {"PYTHONPATH": ":".join([str(ROOT), *sorted(packages)])}
    version = f"{sys.version_info.major}.{sys.version_info.minor}"

    for python in (sys.executable, shutil.which(f"python{version}", path="/usr/bin")):
        if python is None:
            continue

        probe = subprocess.run(
            [*NOBODY, python, "-c", NEEDED],
            env=environment,
            cwd="/",
            capture_output=True,
            check=False,
            timeout=30,
        )

        if probe.returncode == 0:
            return (*NOBODY, python, "-m", "teleworkerd"), environment

    pytest.skip(f"nobody can run no Python {version} with the daemon's packages")


@pytest.fixture
def readable_certs(place: Place, certs: Certificates) -> Certificates:
    """A copy of the certificates that belongs to nobody, keys and all."""
    directory = place.base / "certs"
    shutil.copytree(certs.directory, directory)
    give_to_nobody(directory)
    return Certificates(directory)


def give_to_nobody(directory: Path) -> None:
    """Make nobody the owner of *directory* and of the files in it."""
    for path in (directory, *directory.iterdir()):
        shutil.chown(path, "nobody", "nogroup")


@pytest.fixture
def rootless(
    place: Place,
    readable_certs: Certificates,
    unprivileged: tuple[Sequence[str], dict[str, str]],
    start_daemon: StartDaemon,
) -> Daemon:
    """A daemon that runs as nobody."""
    program, environment = unprivileged
    place.state.mkdir()
    give_to_nobody(place.state)
    return start_daemon(certs=readable_certs, program=program, environment=environment)


@pytest.fixture
def groupless(start_daemon: StartDaemon) -> Daemon:
    """A daemon, as root, on a host where no cgroup hierarchy is mounted."""
    hide = 'mount -t tmpfs none /sys/fs/cgroup && exec "$@"'
    program = ("unshare", "--mount", "sh", "-c", hide, "sh", sys.executable)
    return start_daemon(program=(*program, "-m", "teleworkerd"))


def check_refusal(daemon: Daemon) -> None:
    """Check that a job runs, that one with a limit does not, and the log."""
    alice = Twctl(daemon, daemon.certs.of("alice"))
    said = daemon.log_lines("limited")
    job = alice.shell("id -un; exit 4")

    assert alice.output(job) == "nobody\n"
    assert alice.ended(job)["exit_code"] == 4

    for limit in ("mem", "cpu", "io"):
        refused = alice("run", f"--{limit}", "50", "true")

        assert refused.code == 125
        assert limit in refused.error

    assert len(said) == 1
    assert daemon.log_lines("limited") == said


def test_without_root(rootless: Daemon) -> None:
    """As nobody the daemon runs jobs as itself and refuses limits."""
    check_refusal(rootless)


def test_account_of_jobs_without_root(rootless: Daemon) -> None:
    """Without root, jobs run as whoever runs the daemon."""
    alice = Twctl(rootless, rootless.certs.of("alice"))

    job = alice.run("id", "-u")

    assert alice.output(job) == f"{pwd.getpwnam('nobody').pw_uid}\n"


def test_tree_without_root(rootless: Daemon) -> None:
    """Without groups a kill still ends the main process and its session."""
    alice = Twctl(rootless, rootless.certs.of("alice"))
    job = alice.shell("sleep 1000 & sleep 1000 & echo up; wait")
    alice.until_printed(job, b"up\n")

    assert alice("kill", job).code == 0

    assert alice.ended(job)["exit_code"] == 137


def test_without_cgroups(groupless: Daemon) -> None:
    """Where there are no cgroups jobs run all the same, without limits."""
    check_refusal(groupless)
