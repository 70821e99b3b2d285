"""The daemon's directory: one daemon at a time, and who and where it is."""

import contextlib
import fcntl
import json
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from teleworkerd.config import Config
from teleworkerd.jobdir import write_by_rename
from teleworkerd.reserve import Reserve
from teleworkerd.settings import ConfigError


log = logging.getLogger(__name__)


class StateInUse(ConfigError):
    """The directory belongs to a daemon that runs."""


class StateDirectory:
    """The files that others find the daemon by.

    Making one makes the directory and takes its lock, for this process's life;
    raises `ConfigError` when it cannot. *readers* is the group that may read what is
    there of jobs, and nothing else.
    """

    def __init__(self, config: Config, *, readers: int | None = None) -> None:
        self._path = config.state_dir
        self._reserve = Reserve(config.reserve)

        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            config.jobs_dir.mkdir(mode=0o700, exist_ok=True)
            self._lock = os.open(
                self._path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise ConfigError(
                f"state directory {self._path} cannot be used: {error.strerror};"
                " give another with --state-dir"
            ) from error

        for path in (self._path, config.jobs_dir):
            check_owner(path)

        self._take_lock()

        if readers is not None:
            _open_to(readers, self._path, config.jobs_dir)

        # What a daemon that was killed left does not speak of this one.
        self.clear()

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise StateInUse(
                f"state directory {self._path} belongs to a running teleworkerd"
            ) from None
        except OSError as error:
            os.close(self._lock)
            raise ConfigError(
                f"state directory {self._path} cannot be locked: {error.strerror};"
                " it must be on a local disk"
            ) from error

    @property
    def address(self) -> Path:
        """Where the daemon listens, while it is ready to serve."""
        return self._path / "address"

    def write_address(self, address: str) -> None:
        """Say that the daemon is ready, and where."""
        self._write(self.address, address)

    def write_pid(self, role: str, pid: int) -> None:
        """Write the pid of the `keeper` or the `server`."""
        self._write(self._path / f"{role}.pid", str(pid))

    def write_facts(self, facts: Mapping[str, object]) -> None:
        """Say how the daemon is, to whoever looks."""
        self._write(self._path / "daemon", json.dumps(facts, indent=2))

    def forget_address(self) -> None:
        """Say that the daemon is not ready to serve any more."""
        self._put_aside(self.address)

    def forget_server(self) -> None:
        """Say that no server runs."""
        self._put_aside(self._path / "server.pid")

    def clear(self) -> None:
        """Remove what speaks of a running daemon."""
        for name in ("address", "daemon", "keeper.pid", "server.pid"):
            path = self._path / name
            path.unlink(missing_ok=True)
            _aside(path).unlink(missing_ok=True)

    def _put_aside(self, path: Path) -> None:
        """Have *path* be there no more, but keep its room on the disk."""
        with self._logged(path), contextlib.suppress(FileNotFoundError):
            path.rename(_aside(path))

    def _write(self, path: Path, text: str) -> None:
        data = f"{text}\n".encode()

        with self._logged(path):
            if _aside(path).exists():
                _write_over(_aside(path), data)
                _aside(path).rename(path)
            elif path.exists():
                _replace(path, data)
            else:
                # The reserve is for the ends of jobs: once for each file is enough.
                self._reserve.spend(partial(write_by_rename, path, data))

    @contextlib.contextmanager
    def _logged(self, path: Path) -> Iterator[None]:
        # A full disk is no reason to end the daemon, and all jobs with it.
        try:
            yield
        except OSError as error:
            log.error("%s cannot be written: %s", path, error.strerror)


def _open_to(group: int, state_dir: Path, jobs_dir: Path) -> None:
    """Let *group* pass *state_dir* and read *jobs_dir*; raises `ConfigError`.

    What is made there from now on has the group by itself.
    """
    try:
        if jobs_dir.stat().st_gid != group:
            for directory, _, files in os.walk(jobs_dir, topdown=False):
                _give(Path(directory), group, 0o2750)

                for name in files:
                    _give(Path(directory) / name, group, 0o640)

        os.chown(state_dir, -1, group)
        state_dir.chmod(0o710)
        jobs_dir.chmod(0o2750)
    except OSError as error:
        raise ConfigError(
            f"state directory {state_dir} cannot be made ready for the server:"
            f" {error.filename}: {error.strerror}"
        ) from error


def _give(path: Path, group: int, mode: int) -> None:
    if path.is_symlink():
        return  # none of ours

    os.chown(path, -1, group, follow_symlinks=False)
    path.chmod(mode)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.aside")


def _replace(path: Path, data: bytes) -> None:
    try:
        write_by_rename(path, data)
    except OSError:
        # On a full disk there is room for one of the two.
        _write_over(path, data)


def _write_over(path: Path, data: bytes) -> None:
    """Put *data* where the old is, by one call; what is longer is shortened after it.

    Until then it ends in empty lines, which say nothing.
    """
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    try:
        os.pwrite(file, data.ljust(os.fstat(file).st_size, b"\n"), 0)
        os.truncate(file, len(data))
    finally:
        os.close(file)


def check_owner(path: Path) -> None:
    """Raise `ConfigError` if somebody else could put something in our place."""
    found = path.stat()

    if found.st_uid != os.geteuid():
        raise ConfigError(
            f"state directory {path} belongs to another account, with the id"
            f" {found.st_uid}; 'chown -R {os.geteuid()} {path}', or give another with"
            " --state-dir"
        )

    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"state directory {path} can be written by others; 'chmod 700 {path}', or"
            " give another with --state-dir"
        )
