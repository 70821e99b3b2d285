"""What a daemon says of itself, and who may be believed to be one."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

import pytest

from teleworkerd.config import Config
from teleworkerd.daemon.facts import DaemonFacts, DaemonState, describe_end, timestamp
from teleworkerd.daemon.running import find_keeper
from teleworkerd.keeper.state_dir import StateDirectory
from teleworkerd.settings import DaemonConfig


# Holds the lock of a directory until its stdin is closed.
HOLDER: Final = """
import fcntl, sys
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(state: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the lock of *state*, and says so."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(state / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )

    with process:
        assert process.stdout is not None
        process.stdout.read(1)
        (state / "keeper.pid").write_text(f"{process.pid}\n")
        yield process


def test_written_and_read(tmp_path: Path) -> None:
    """What was written is read, None and all."""
    state = StateDirectory(Config(DaemonConfig(state_dir=str(tmp_path))))
    facts = DaemonFacts(
        1,
        timestamp(1_700_000_000_123_456_789),
        state=DaemonState.RESTARTING,
        last_exit_status=-9,
    )
    state.write_facts(asdict(facts))

    assert DaemonFacts.read(tmp_path) == facts
    assert json.loads((tmp_path / "daemon").read_bytes()) == {
        "keeper_pid": 1,
        "keeper_started_at": "2023-11-14T22:13:20Z",
        "state": "restarting",
        "status": "",
        "server_pid": None,
        "server_started_at": None,
        "restarts": 0,
        "last_exit_status": -9,
        "reloads_asked": 0,
        "reloads_done": 0,
        "reload_error": None,
        "reload_unused": None,
    }


@pytest.mark.parametrize(
    "text", [None, "", "[]", "{", "{}", '{"keeper_pid": "x"}', "null", "\xff"]
)
def test_nothing_that_can_be_read(tmp_path: Path, text: str | None) -> None:
    """A file that is missing or damaged is as if there were none."""
    if text is not None:
        (tmp_path / "daemon").write_text(text, encoding="latin-1")

    assert DaemonFacts.read(tmp_path) is None


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "ended with status 0"),
        (1, "ended with status 1"),
        (-9, "was killed by SIGKILL"),
        (-50, "was killed by signal 50"),
    ],
)
def test_end(status: int, words: str) -> None:
    """How a server ended is said in words."""
    assert describe_end(status) == f"the server {words}"


def test_keeper_that_runs(tmp_path: Path) -> None:
    """The process that holds the lock is found; signals reach it, while it is there."""
    with holder(tmp_path) as process:
        keeper = find_keeper(tmp_path)
        assert keeper is not None

        with keeper:
            assert keeper.pid == process.pid
            had_ended = keeper.has_ended
            keeper.send(signal.SIGTERM)

            assert process.wait(10) == -signal.SIGTERM
            assert (had_ended, keeper.has_ended) == (False, True)
            keeper.send(signal.SIGTERM)


def test_process_without_the_lock(tmp_path: Path) -> None:
    """A process that has got the pid of a keeper is not taken for it."""
    with holder(tmp_path):
        (tmp_path / "keeper.pid").write_text(f"{os.getpid()}\n")

        with (tmp_path / "lock").open():
            assert find_keeper(tmp_path) is None


def test_lock_of_another_directory(tmp_path: Path) -> None:
    """Neither is the keeper of another directory."""
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "lock").touch()

    with holder(other) as process:
        (tmp_path / "keeper.pid").write_text(f"{process.pid}\n")

        assert find_keeper(tmp_path) is None


@pytest.mark.parametrize("pid", [None, "", "x", "0", "-1", "99999999999999999999"])
def test_no_keeper(tmp_path: Path, pid: str | None) -> None:
    """Without a pid that can be one there is no keeper."""
    if pid is not None:
        (tmp_path / "keeper.pid").write_text(pid)

    assert find_keeper(tmp_path) is None


def test_looking_takes_no_lock(tmp_path: Path) -> None:
    """Whoever looks does not keep a daemon from starting."""
    (tmp_path / "keeper.pid").write_text(f"{os.getpid()}\n")

    with (tmp_path / "lock").open("w") as lock:
        assert find_keeper(tmp_path) is None
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
