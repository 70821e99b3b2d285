"""What the server may not do any more once it serves, and jobs never could."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.commandline import Twctl, call, settings
from tests.e2e.daemon import Daemon, Place, StartDaemon, directories, try_to_start
from tests.e2e.pki import ROOT, Certificates


IDS: Final = 4  # real, effective, saved, of files
CAPABILITIES: Final = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
NO_CAPABILITIES: Final = "0" * 16
PACKAGES: Final = ("teleworkerd", "twctl")


def status_of(pid: int) -> dict[str, list[str]]:
    """Return what the kernel says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name: value.split() for name, _, value in pairs}


def test_server_is_nobody(daemon: Daemon) -> None:
    """The server has no id of root, no other group, no capability, no way back."""
    found = status_of(daemon.server.pid)

    assert "0" not in found["Uid"]
    assert found["Uid"] == found["Uid"][:1] * IDS
    assert "0" not in found["Gid"]
    assert found["Groups"] == []
    assert {found[kind][0] for kind in CAPABILITIES} == {NO_CAPABILITIES}
    assert found["NoNewPrivs"] == ["1"]


def test_every_thread(daemon: Daemon) -> None:
    """So has each of its threads."""
    tasks = Path(f"/proc/{daemon.server.pid}/task").iterdir()

    for task in tasks:
        text = (task / "status").read_text()
        assert "\nCapEff:\t" + NO_CAPABILITIES in text
        assert "\nUid:\t0" not in text


def test_keeper_is_root(daemon: Daemon) -> None:
    """The keeper is root still: it has to become the accounts of jobs."""
    assert status_of(daemon.keeper.pid)["Uid"] == ["0"] * IDS


@pytest.mark.parametrize("kind", ["server", "job"])
def test_closed_to(daemon: Daemon, alice: Twctl, kind: str) -> None:
    """Neither the server's account nor jobs open keys, database, or the audit log."""
    alice.run("true")
    state, certs = daemon.place.state, daemon.certs.directory
    server = status_of(daemon.server.pid)
    who: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": []}

    if kind == "server":
        who |= {"user": int(server["Uid"][0]), "group": int(server["Gid"][0])}

    for path in (
        certs / "server-key.pem",
        state / "jobs.sqlite",
        state / "audit.jsonl",
        state / "lock",
    ):
        assert path.exists()
        done = subprocess.run(["cat", path], capture_output=True, check=False, **who)
        assert done.returncode != 0, path
        assert b"Permission denied" in done.stderr

    for path in (state, state / "jobs", certs):
        done = subprocess.run(
            ["touch", path / "x"], capture_output=True, check=False, **who
        )
        assert done.returncode != 0, path


def test_job_reads_nothing(daemon: Daemon, alice: Twctl, bob: Twctl) -> None:
    """A job as nobody sees no spool, not even its own directory, by any name."""
    secret = bob.run("echo", "secret")
    bob.ended(secret)
    jobs = daemon.place.state / "jobs"
    done = alice(
        "run",
        "-f",
        "sh",
        "-c",
        f"cat {jobs}/{secret}/stdout; ls {jobs}; ls {daemon.place.state};"
        f" cat /proc/{daemon.server.pid}/environ; cat /proc/{daemon.server.pid}/mem;"
        f" ls /proc/{daemon.server.pid}/fd; kill {daemon.server.pid};"
        f" kill {daemon.keeper.pid}",
    )

    assert done.stdout == b""
    assert "secret" not in done.stderr.replace(secret, "")
    assert done.stderr.count("ermission denied") + done.stderr.count("permitted") == 8
    assert daemon.server.is_alive


def test_modes(daemon: Daemon, alice: Twctl) -> None:
    """Nobody but root and the server's group gets at what is kept of jobs."""
    job = alice.run("true")
    alice.ended(job)
    gid = int(status_of(daemon.server.pid)["Gid"][0])

    def mode(path: Path) -> tuple[int, int, int]:
        found = path.stat()
        return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)

    state = daemon.place.state
    assert mode(state) == (0, gid, 0o710)
    assert mode(state / "jobs") == (0, gid, 0o2750)
    assert mode(state / "jobs" / job) == (0, gid, 0o2750)

    for path in (state / "jobs" / job).iterdir():
        assert mode(path) == (0, gid, 0o640), path

    assert mode(state / "jobs.sqlite") == (0, 0, 0o640)
    assert mode(state / "audit.jsonl") == (0, 0, 0o600)


def test_earlier_directory(place: Place, start_daemon: StartDaemon) -> None:
    """Jobs that were kept when the server still was root can be read."""
    daemon = start_daemon()
    alice = Twctl(daemon, daemon.certs.of("alice"))
    job = alice.run("echo", "kept")
    alice.ended(job)
    daemon.stop()

    for path in (place.state, *place.state.rglob("*")):
        os.chown(path, 0, 0)
        path.chmod(0o700 if path.is_dir() else 0o600)

    alice = Twctl(start_daemon(), daemon.certs.of("alice"))

    assert alice("tail", job).stdout == b"kept\n"


def test_out_of_reach(certs: Certificates, place: Place) -> None:
    """Program, state and certificates may be where only root can go."""
    hidden = place.base / "hidden"
    hidden.mkdir(mode=0o700)

    for name in PACKAGES:
        shutil.copytree(ROOT / name, hidden / name)

    shutil.copytree(certs.directory, hidden / "certs")
    place.state = hidden / "state"
    program = [
        sys.executable,
        "-c",
        (
            f"import sys; sys.path.insert(0, {str(hidden)!r});"
            "from teleworkerd.main import main; sys.exit(main())"
        ),
    ]
    there = Certificates(hidden / "certs")

    with Daemon(place, there, program=program) as daemon:
        alice = Twctl(daemon, certs.of("alice"))
        job = alice.shell("seq 100000; exit 3")
        followed = alice("tail", "-f", "--exit-code", job)
        assert followed.code == 3
        assert followed.stdout.count(b"\n") == 100_000
        assert alice("tail", "-n", "1", job).stdout == b"100000\n"
        assert alice("rm", job).code == 0
        assert daemon.log_lines("serving as")
        assert daemon.log_lines("error|warn") == []


def test_account_of_its_own(place: Place, start_daemon: StartDaemon) -> None:
    """The server is who the configuration says."""
    daemon = start_daemon(config='[daemon]\nuser = "daemon"\n')

    assert status_of(daemon.server.pid)["Uid"] == ["1"] * IDS


def test_shared_account(place: Place, start_daemon: StartDaemon) -> None:
    """An account that jobs have too is taken, with a warning that says why not to."""
    daemon = start_daemon(config='[daemon]\nuser = "nobody"\n')

    assert daemon.log_lines("WARN.*jobs can end the server")


@pytest.mark.parametrize(
    ("user", "words"),
    [("root", "is root, which the server has to give up"), ("no-such", "there is no")],
)
def test_wrong_account(
    place: Place, certs: Certificates, user: str, words: str
) -> None:
    """An account that is root or not there keeps the daemon from starting."""
    config = place.base / "config.toml"
    config.write_text(f'[daemon]\nuser = "{user}"\n')

    for check in ([], ["--check"]):
        done = try_to_start(
            "--config",
            str(config),
            "--listen",
            "127.0.0.1:0",
            *check,
            *directories(place, certs),
        )
        assert done.returncode == 1
        assert words in done.stderr + done.stdout


def test_root_for_everybody(place: Place, start_daemon: StartDaemon) -> None:
    """Jobs of everybody as root are possible, and warned of."""
    daemon = start_daemon(config='[jobs]\nuser = "root"\n')
    alice = Twctl(daemon, daemon.certs.of("alice"))

    assert alice("run", "-f", "id", "-u").stdout == b"0\n"
    assert daemon.log_lines("WARN.*every certificate may do everything")


def test_certificates_of_root(place: Place, certs: Certificates) -> None:
    """A reload has new certificates, though the server may not open them."""
    own = place.base / "certs"
    shutil.copytree(certs.directory, own)
    own.chmod(0o700)

    with Daemon(place, Certificates(own)) as daemon:
        environment = settings(
            daemon.address, certs, certs.of("alice"), home=place.base
        )
        assert call("info", environment=environment).code == 0
        reload = [sys.executable, "-m", "teleworkerd", "reload"]
        done = subprocess.run(
            [*reload, "--state-dir", place.state], cwd=ROOT, check=False
        )
        assert done.returncode == 0
        assert call("info", environment=environment).code == 0
