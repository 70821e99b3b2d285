"""The daemon's directory: one daemon at a time, and who and where it is."""

import fcntl
import logging
import os
from pathlib import Path

from teleworkerd.config import Config, ConfigError
from teleworkerd.jobdir import write_by_rename


log = logging.getLogger(__name__)


class StateDirectory:
    """The files that others find the daemon by.

    Making one makes the directory and takes its lock, for this process's life;
    raises `ConfigError` when it cannot.
    """

    def __init__(self, config: Config) -> None:
        self._path = config.state_dir

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

        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"state directory {self._path} belongs to a running teleworkerd"
            ) from None

        self.address.unlink(missing_ok=True)

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

    def clear(self) -> None:
        """Remove what speaks of a running daemon."""
        for path in (
            self.address,
            self._path / "server.pid",
            self._path / "keeper.pid",
        ):
            path.unlink(missing_ok=True)

    def _write(self, path: Path, text: str) -> None:
        # A full disk is no reason to end the daemon, and all jobs with it.
        try:
            write_by_rename(path, f"{text}\n".encode())
        except OSError as error:
            log.error("%s cannot be written: %s", path, error.strerror)
