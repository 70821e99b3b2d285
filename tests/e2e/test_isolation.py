"""What a job can reach of the daemon and of other jobs, by `[jobs] isolation`."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.commandline import Twctl
from tests.e2e.daemon import Daemon, Place
from tests.e2e.pki import Certificates


PRIVATE = """\
[jobs]
isolation = "private"
private_pids = true
[jobs.users]
bob = "root"
"""


class VisiblePlace(Place):
    """Directories that are not in /tmp, of which each private job has its own."""

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(shutil.move(self.base, "/var/lib"))
        self.state = self.base / "state"
        self.shared = self.base / "shared"


def copied(certs: Certificates, place: Place) -> Certificates:
    """Return *certs* where a job of root could see them, were they not covered."""
    shutil.copytree(certs.directory, place.base / "certs")
    return Certificates(place.base / "certs")


@pytest.fixture(scope="module")
def private_daemon(certs: Certificates) -> Iterator[Daemon]:
    """A daemon of private jobs, where those of bob are root's."""
    place = VisiblePlace()

    try:
        with Daemon(place, copied(certs, place), config=PRIVATE) as running:
            yield running
    finally:
        place.remove()


def secrets(daemon: Daemon, job: str) -> list[Path]:
    """Return files of the daemon that no job may read: of *job*, keys, records."""
    state = daemon.place.state
    found = [
        *(state / "jobs" / job / name for name in ("spec", "stdout", "index")),
        *(state / name for name in ("jobs.sqlite", "lock", "daemon")),
        daemon.certs.of("server").key,
        daemon.certs.ca_key,
    ]
    assert all(path.exists() for path in found), found
    return found


@pytest.mark.parametrize("stream", ["own", "another's"])
def test_nobody_reads_nothing_of_the_daemon(
    daemon: Daemon, alice: Twctl, bob: Twctl, stream: str
) -> None:
    """Without isolation a job that is not root's is refused every file of it."""
    reader = alice if stream == "own" else bob
    written = alice.run("echo", "secret")
    alice.ended(written)
    paths = secrets(daemon, written)

    job = reader.run("cat", *map(str, paths))

    assert reader.ended(job)["exit_code"] == 1
    assert reader.output(job) == ""
    errors = reader("tail", "--err", job).stdout.decode()
    assert errors.count("Permission denied") == len(paths)


@pytest.mark.parametrize("name", ["alice", "bob"])
def test_private_job_sees_nothing_of_the_daemon(
    private_daemon: Daemon, name: str
) -> None:
    """With it the directories are empty, for root's jobs too."""
    twctl = Twctl(private_daemon, private_daemon.certs.of(name))
    written = twctl.run("echo", "secret")
    twctl.ended(written)
    paths = secrets(private_daemon, written)
    state, certs = private_daemon.place.state, private_daemon.certs.directory

    job = twctl.shell(f"find {state} {certs} -type f; cat {' '.join(map(str, paths))}")

    assert twctl.ended(job)["exit_code"] == 1
    assert twctl.output(job) == ""


def test_private_job_from_start_to_end(private_daemon: Daemon) -> None:
    """It is run, followed, signalled and ended like any other."""
    alice = Twctl(private_daemon, private_daemon.certs.of("alice"))
    job = alice.shell(
        "trap 'echo got it; exit 7' USR1; echo up; while :; do sleep 0.02; done"
    )
    alice.until_printed(job, b"up\n")
    other = alice.run("sleep", "1000")

    assert alice("kill", "-s", "USR1", job).code == 0
    assert alice("kill", other).code == 0

    assert alice.ended(job)["exit_code"] == 7
    assert alice.output(job) == "up\ngot it\n"
    assert alice.ended(other)["state"] == "stopped"


def test_server_is_in_no_namespace_of_a_job(private_daemon: Daemon) -> None:
    """A server that is started while private jobs run is where the keeper is."""
    alice = Twctl(private_daemon, private_daemon.certs.of("alice"))
    running = alice.run("sleep", "1000")
    before = private_daemon.server
    os.kill(before.pid, signal.SIGKILL)
    after = private_daemon.successor_of(before)
    spaces = {
        str(Path(f"/proc/{pid}/ns/{kind}").readlink())
        for pid in (after.pid, private_daemon.keeper.pid)
        for kind in ("pid", "mnt", "ipc", "uts", "net", "cgroup")
    }

    assert len(spaces) == 6
    assert alice.status(running)["state"] == "running"
    assert alice("kill", running).code == 0


def test_failure_that_names_the_stage(private_daemon: Daemon) -> None:
    """A working directory that the job has not is told to who asked for it."""
    alice = Twctl(private_daemon, private_daemon.certs.of("alice"))
    done = alice("run", "-w", "/tmp/nowhere", "true")

    assert done.code != 0
    assert "cannot be entered" in done.error
    assert "directory of its own" in done.error
