"""One daemon for each state directory, and what others find in it."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Final

import pytest

from teleworkerd.config import Config
from teleworkerd.execution import LossRecord
from teleworkerd.jobdir import JobDirectory
from teleworkerd.keeper import state_dir
from teleworkerd.keeper.state_dir import StateDirectory, StateInUse
from teleworkerd.settings import ConfigError, DaemonConfig


JOB: Final = "01234567-89ab-cdef-0123-456789abcdef"
GROUP: Final = 65520  # of the server


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A directory that does not exist yet, nor the one above it."""
    return Config(DaemonConfig(state_dir=str(tmp_path / "above" / "state")))


def test_made_private(config: Config) -> None:
    """It is made with what is above it, for the daemon alone."""
    StateDirectory(config)

    assert config.jobs_dir.is_dir()
    assert config.state_dir.stat().st_mode & 0o777 == 0o700


def test_second(config: Config) -> None:
    """A second daemon is refused, and takes nothing from the first."""
    first = StateDirectory(config)
    first.write_address("127.0.0.1:1")

    with pytest.raises(ConfigError, match="belongs to a running teleworkerd"):
        StateDirectory(config)

    assert first.address.read_text() == "127.0.0.1:1\n"


def test_lock_is_not_inherited(config: Config) -> None:
    """A job that outlives the daemon does not keep the next one from starting."""
    directory = StateDirectory(config)

    assert not os.get_inheritable(directory._lock)


def test_address_of_a_killed_daemon(config: Config) -> None:
    """What a killed daemon left does not speak of the new one."""
    (config.state_dir).mkdir(parents=True)
    (config.state_dir / "address").write_text("127.0.0.1:1\n")

    assert not StateDirectory(config).address.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_written_later_into_what_was_there(config: Config) -> None:
    """The server reads also what is written into a job's directory of before."""
    job = JobDirectory(config.jobs_dir / JOB)
    config.jobs_dir.mkdir(parents=True)
    job.create()
    config.state_dir.chmod(0o700)

    StateDirectory(config, readers=GROUP)
    job.write_loss(LossRecord("its keeper was killed"))

    assert job.loss.stat().st_gid == GROUP


def test_file_in_its_place(config: Config, tmp_path: Path) -> None:
    """A path that is no directory is named, with the flag to change it."""
    (tmp_path / "above").touch()

    with pytest.raises(ConfigError, match=r"above/state cannot be used: .*--state-dir"):
        StateDirectory(config)


def test_clear(config: Config) -> None:
    """At a clean end nothing speaks of a running daemon."""
    directory = StateDirectory(config)
    directory.write_address("127.0.0.1:1")
    directory.write_pid("keeper", 1)
    directory.write_pid("server", 2)
    directory.write_facts({"keeper_pid": 1})
    assert (config.state_dir / "server.pid").read_text() == "2\n"

    directory.clear()

    assert {path.name for path in config.state_dir.iterdir()} == {"jobs", "lock"}


def test_less_and_less(config: Config) -> None:
    """What is not so any more goes by itself."""
    directory = StateDirectory(config)
    directory.write_address("127.0.0.1:1")
    directory.write_pid("keeper", 1)
    directory.write_pid("server", 2)
    directory.forget_address()
    directory.forget_server()

    assert {path.name for path in config.state_dir.iterdir()} == {
        "jobs",
        "lock",
        "keeper.pid",
        *(".address.aside", ".server.pid.aside"),
    }


def test_again(config: Config) -> None:
    """What is so again comes back whole, however long it was."""
    directory = StateDirectory(config)

    for address in ("[2001:db8::1]:7443", "a:1", "127.0.0.1:65535"):
        directory.write_address(address)
        assert directory.address.read_text() == f"{address}\n"
        directory.forget_address()
        assert not directory.address.exists()


def test_lock_that_fails(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that cannot lock is not taken for a daemon that runs."""

    def no_lock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_lock)

    with pytest.raises(ConfigError, match="cannot be locked: No locks") as caught:
        StateDirectory(config)

    assert not isinstance(caught.value, StateInUse)


def test_full_disk(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk without room for these files is an error in the log, not the end."""

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    directory = StateDirectory(config)
    monkeypatch.setattr(state_dir, "write_by_rename", no_room)
    directory.write_pid("server", 1)
    directory.write_address("127.0.0.1:1")

    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "server.pid cannot be written: No space left" in caplog.text


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_directory_that_others_may_write(tmp_path: Path, mode: int) -> None:
    """Where others could put something in the place of ours, we do not begin."""
    path = tmp_path / "state"
    path.mkdir()
    path.chmod(mode)

    with pytest.raises(
        ConfigError, match=rf"can be written by others; 'chmod 700 {path}'"
    ):
        StateDirectory(Config(DaemonConfig(state_dir=str(path))))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_directory_of_another_account(tmp_path: Path) -> None:
    """Nor do we where somebody else may do as he likes."""
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    os.chown(path, 12345, -1)

    with pytest.raises(
        ConfigError, match="belongs to another account, with the id 12345"
    ):
        StateDirectory(Config(DaemonConfig(state_dir=str(path))))
