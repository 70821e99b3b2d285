"""A real daemon with certificates of its own, as an operator would start it."""

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from bench.processes import (
    ROOT,
    Program,
    end,
    output_of,
    spawn,
    time_of,
    wait_for,
)
from bench.series import MeasurementError
from twctl import Client, connect


CLIENT: Final = "bench"
START: Final = 30.0  # seconds

_STEERED_BY: Final = ("TELEWORKERD_", "TWCTL_", "NOTIFY_SOCKET")


@dataclass(frozen=True, slots=True)
class Certificates:
    """A directory as gen_certs.sh makes it, with one client."""

    directory: Path

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def cert(self) -> Path:
        return self.directory / f"{CLIENT}.pem"

    @property
    def key(self) -> Path:
        return self.directory / f"{CLIENT}-key.pem"


def make_certificates(directory: Path) -> Certificates:
    """Make a CA, a server for loopback and a client."""
    script = str(ROOT / "gen_certs.sh")
    time_of(Program((script, "--dir", str(directory), CLIENT)))
    return Certificates(directory)


class Daemon:
    """One running `teleworkerd` with default settings; takes its jobs with it.

    A new one for each measurement finds no output of the one before, which the
    kernel would write to the disk meanwhile. The files are emptied and stay until the
    end: ext4 looks at each inode that was deleted in the last minutes before it gives
    one to a new file, which made every job that came later slower.
    """

    def __init__(self, base: Path, certificates: Certificates) -> None:
        self._certificates = certificates
        self._directory = Path(tempfile.mkdtemp(prefix="daemon-", dir=base))
        self._directory.chmod(0o755)  # its server runs as somebody else
        self._state = self._directory / "state"

        self._log = self._directory / "log"
        program = (
            *(sys.executable, "-m", "teleworkerd", "--log-level", "warning"),
            *("--listen", "127.0.0.1:0", "--state-dir", str(self._state)),
            *("--certs", str(certificates.directory)),
        )
        self._process = spawn(Program(program, _environment()), log=self._log)

        try:
            wait_for(self._is_ready, what="address of the daemon", within=START)
            self.address = (self._state / "address").read_text().strip()
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @property
    def pids(self) -> set[int]:
        """The keeper and the server."""
        names = ("keeper.pid", "server.pid")
        return {int((self._state / name).read_text()) for name in names}

    def twctl(self, *arguments: str) -> Program:
        """Return the call of `python -m twctl` with *arguments*."""
        environment = _environment() | {
            "HOME": str(self._directory),
            "XDG_CONFIG_HOME": str(self._directory),
            "TWCTL_HOST": self.address,
            "TWCTL_CA": str(self._certificates.ca),
            "TWCTL_CERT": str(self._certificates.cert),
            "TWCTL_KEY": str(self._certificates.key),
        }
        return Program((sys.executable, "-m", "twctl", *arguments), environment)

    def start(self, *command: str) -> str:
        """Start a job by `twctl run` and return its ID."""
        return output_of(self.twctl("run", "--", *command))

    def connect(self) -> Client:
        """Return the library's client."""
        return connect(
            self.address,
            ca=self._certificates.ca,
            cert=self._certificates.cert,
            key=self._certificates.key,
        )

    def _is_ready(self) -> bool:
        if self._process.poll() is not None:
            why = self._log.read_text().strip()
            raise MeasurementError(f"the daemon did not start: {why}")

        return (self._state / "address").exists()

    def _close(self) -> None:
        end(self._process)

        for file in self._state.glob("jobs/*/std*"):
            os.truncate(file, 0)


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_STEERED_BY)
    }
