"""A real daemon, started as an operator would and looked at from outside."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, Self

from tests.e2e.groups import left_of
from tests.e2e.pki import ROOT, Certificates
from tests.e2e.processes import Process, descendants, process, wait_until_gone
from tests.e2e.waiting import wait_for


PROGRAM: Final = (sys.executable, "-m", "teleworkerd")
START: Final = 20.0  # seconds; a busy machine needs some to import everything
END: Final = 20.0  # seconds; jobs that ignore SIGTERM are given their grace

UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Gate:
    """What a job waits at until the test lets it go on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def wait(self) -> str:
        """The shell command that waits."""
        return f"until [ -e {self.path} ]; do sleep 0.02; done"

    def open(self) -> None:
        """Let everybody through who waits, now or later."""
        self.path.touch()


class Place:
    """The directories of one daemon; they outlive its restarts.

    They are not below pytest's own directory, which no other account may enter:
    the server and the jobs run as somebody else.
    """

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="teleworker-e2e-", dir="/tmp"))
        self.base.chmod(0o755)
        self.state = self.base / "state"
        self.shared = self.base / "shared"
        self.shared.mkdir()
        self.shared.chmod(0o1777)
        self._gates = 0

    def gate(self) -> Gate:
        """Return a gate that is shut."""
        self._gates += 1
        return Gate(self.shared / f"gate-{self._gates}")

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.base)


class Daemon:
    """One running `teleworkerd`."""

    def __init__(
        self,
        place: Place,
        certs: Certificates,
        *,
        config: str | None = None,
        arguments: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        """Start it and wait until it serves.

        *config* is the text of its TOML file. *arguments* replace the usual
        flags; *environment* is added to the clean one.
        """
        self.place = place
        self.certs = certs
        self.jobs: set[str] = set()
        self._log = place.base / "log"
        given = (
            ["--listen", "127.0.0.1:0", *directories(place, certs)]
            if arguments is None
            else [*arguments]
        )

        if config is not None:
            file = place.base / "teleworkerd.toml"
            file.write_text(config)
            given = ["--config", str(file), *given]

        self.address_file.unlink(missing_ok=True)  # one that was killed leaves it

        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*program, *given],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=clean_environment() | dict(environment or {}),
            )

        self._started = {process(self.process.pid)}

        try:
            self.address = self._await_address()
            self._started |= {self.keeper, self.server}
        except BaseException:
            self.discard()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop it and check what it leaves; only end it after a failure."""
        try:
            if kind is None:
                self.stop()
        finally:
            self.discard()

    @property
    def address_file(self) -> Path:
        return self.place.state / "address"

    @property
    def keeper(self) -> Process:
        return self._process_of("keeper.pid")

    @property
    def server(self) -> Process:
        return self._process_of("server.pid")

    def log(self) -> str:
        """Return all that it has written to stderr so far."""
        return self._log.read_text(errors="replace")

    def log_lines(self, pattern: str) -> list[str]:
        """Return the lines of the log in which *pattern* is found."""
        return [
            line
            for line in self.log().splitlines()
            if re.search(pattern, line, re.IGNORECASE)
        ]

    def gate(self) -> Gate:
        """Return a gate that is shut."""
        return self.place.gate()

    def successor_of(self, server: Process) -> Process:
        """Wait for the server that follows *server*, and return it."""

        def look() -> Process | None:
            try:
                now = self.server
            except (AssertionError, OSError, ValueError):  # between the two
                return None

            return now if now != server else None

        return wait_for(look, what="new server", within=START)

    def stop(self) -> None:
        """Send SIGTERM and check that nothing is left; do nothing if it ended."""
        if self.process.poll() is not None:
            return

        family = descendants(self.process.pid) | {self.keeper, self.server}
        jobs = self._known_jobs()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(END)

        assert code == 0, self.log()
        wait_until_gone(family)
        assert not self.address_file.exists()
        assert left_of(jobs) == []

    def discard(self) -> None:
        """End what still runs, whatever it is."""
        family = set(self._started)

        for one in self._started:
            if one.is_alive:
                family |= descendants(one.pid)

        for one in family:
            if one.is_alive:
                os.kill(one.pid, signal.SIGKILL)

        self.process.wait(END)

        for directory in left_of(self._known_jobs()):
            with contextlib.suppress(OSError):  # gone, or its last process is going
                directory.rmdir()

    def _await_address(self) -> str:
        def look() -> str | None:
            assert self.process.poll() is None, self.log()
            found = self.address_file.exists()
            return self.address_file.read_text() if found else None

        text = wait_for(look, what="address file", within=START)
        assert re.fullmatch(r"\S+:\d+\n", text), text
        return text.strip()

    def _process_of(self, name: str) -> Process:
        return process(int((self.place.state / name).read_text()))

    def _known_jobs(self) -> set[str]:
        names = (path.name for path in self.place.state.rglob("*"))
        return self.jobs | {name for name in names if UUID.fullmatch(name)}


class StartDaemon(Protocol):
    """Starts a daemon that ends with the test."""

    def __call__(
        self,
        *,
        place: Place | None = None,
        certs: Certificates | None = None,
        **options: Any,
    ) -> Daemon: ...


def directories(place: Place, certs: Certificates) -> list[str]:
    """Return the flags that name the daemon's directories."""
    return ["--state-dir", str(place.state), "--certs", str(certs.directory)]


def clean_environment() -> dict[str, str]:
    """Return this process's environment without what steers our programs."""
    ours = ("TELEWORKERD_", "TWCTL_", "NOTIFY_SOCKET", "LISTEN_", "WATCHDOG_")
    return {
        name: value for name, value in os.environ.items() if not name.startswith(ours)
    }


def try_to_start(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    program: Sequence[str] = PROGRAM,
) -> subprocess.CompletedProcess[str]:
    """Run a `teleworkerd` that is expected to end by itself."""
    return subprocess.run(
        [*program, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=clean_environment() | dict(environment or {}),
        timeout=START,
    )


def free_port() -> int:
    """Return a port on loopback that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port
