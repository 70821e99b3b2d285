"""A `teleworkerd` whose surroundings a test can change."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.e2e.pki import Certificates
from tests.keeper.kept import DEADLINE, ROOT, Place, eventually


PROGRAM: Final = """
import sys
{change}
from teleworkerd.main import main
sys.exit(main())
"""


class Daemon:
    """`teleworkerd` with *environment* added to a clean one.

    *change* is Python that runs before it.
    """

    def __init__(
        self,
        place: Place,
        certs: Path,
        *,
        change: str = "",
        config: str = "",
        listening: str = "127.0.0.1:0",
        environment: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
    ) -> None:
        self.place = place
        self.has_bug = False  # of the test's, so that there may be a traceback
        self._log = place.base / "log"
        file = place.base / "teleworkerd.toml"
        file.write_text(config)

        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-c",
                    PROGRAM.format(change=change),
                    *("--config", str(file)),
                    *("--listen", listening, "--state-dir", str(place.state)),
                    *("--certs", str(certs)),
                ],
                stdin=subprocess.DEVNULL,
                stderr=log,
                cwd=cwd,
                env={
                    "PATH": "/usr/bin:/bin",
                    "PYTHONPATH": str(ROOT),
                    **(environment or {}),
                },
            )

    def log(self) -> str:
        """Return what it has written to its log."""
        return self._log.read_text()

    def address(self) -> tuple[str, int]:
        """Wait until it serves; return where."""
        file = self.place.state / "address"

        def is_ready() -> bool:
            assert self.process.poll() is None, self.log()
            return file.exists()

        eventually(is_ready, what="the address")
        host, _, port = file.read_text().strip().rpartition(":")
        return host.strip("[]"), int(port)

    def server(self) -> int:
        """Return the pid of the server."""
        return int((self.place.state / "server.pid").read_text())

    def next_server(self, last: int) -> int:
        """Wait for a server other than *last*; return its pid."""
        file = self.place.state / "server.pid"

        def is_there() -> bool:
            return file.exists() and file.read_text() != f"{last}\n"

        eventually(is_there, what="another server")
        return self.server()

    def end(self) -> int:
        """Wait until it has ended; return its exit status."""
        return self.process.wait(DEADLINE)

    def discard(self) -> None:
        """End it, whatever state it is in."""
        if self.process.poll() is None:
            self.process.terminate()

            try:
                self.process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

        assert self.has_bug or "Traceback" not in self.log(), self.log()


def copy_of(certs: Certificates, place: Place) -> Path:
    """Copy the certificates to where a test may change them."""
    return Path(shutil.copytree(certs.directory, place.base / "certs"))
