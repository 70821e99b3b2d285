"""`twctl` as a person or a script calls it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Self

from tests.e2e.daemon import UUID, Daemon, clean_environment
from tests.e2e.pki import ROOT, Certificates, Identity
from tests.e2e.waiting import wait_for


MODULE: Final = (sys.executable, "-m", "twctl")
SCRIPT: Final = (str(Path(sys.executable).with_name("twctl")),)
FINAL: Final = frozenset({"finished", "stopped", "failed", "lost"})


@dataclass(frozen=True, slots=True)
class Completed:
    """How a call of `twctl` ended and what it printed."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def error(self) -> str:
        """The one line of a failure; anything beside it fails the test."""
        assert self.stdout == b""
        assert re.fullmatch(r"twctl: error: [^\n]+\n", self.stderr), self.stderr
        return self.stderr


class Running:
    """A `twctl` that runs, such as a follower."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._arrived = threading.Condition()
        self._stdout = bytearray()
        self._stderr = bytearray()
        self._open = 2
        self._threads = [
            self._read(process.stdout, self._stdout),
            self._read(process.stderr, self._stderr),
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()

        self.process.wait()

        for thread in self._threads:
            thread.join()

    def until(self, data: bytes, *, within: float = 15.0) -> bytes:
        """Wait until *data* has been printed; return all of stdout so far."""
        return self._until(lambda seen: data in seen, what=repr(data), within=within)

    def until_lines(self, count: int, *, within: float = 15.0) -> bytes:
        """Wait until *count* lines have been printed; return all so far."""
        return self._until(
            lambda seen: seen.count(b"\n") >= count,
            what=f"{count} lines",
            within=within,
        )

    def seen(self) -> bytes:
        """Return what it has printed so far."""
        with self._arrived:
            return bytes(self._stdout)

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def finish(self, *, within: float = 30.0) -> Completed:
        """Wait for its end."""
        code = self.process.wait(within)

        for thread in self._threads:
            thread.join(within)

        return Completed(code, bytes(self._stdout), self._stderr.decode())

    def _until(
        self, is_enough: Callable[[bytearray], bool], *, what: str, within: float
    ) -> bytes:
        with self._arrived:
            self._arrived.wait_for(
                lambda: is_enough(self._stdout) or not self._is_open(), within
            )
            seen = bytes(self._stdout)
            enough = is_enough(self._stdout)

        assert enough, f"no {what}, only {seen[-200:]!r} and {self._stderr!r}"
        return seen

    def _is_open(self) -> bool:
        return self._open > 0

    def _read(self, pipe: IO[bytes] | None, into: bytearray) -> threading.Thread:
        assert pipe is not None

        thread = threading.Thread(target=self._copy, args=(pipe, into), daemon=True)
        thread.start()
        return thread

    def _copy(self, pipe: IO[bytes], into: bytearray) -> None:
        with pipe:
            while data := os.read(pipe.fileno(), 1 << 18):
                with self._arrived:
                    into.extend(data)
                    self._arrived.notify_all()

        with self._arrived:
            self._open -= 1
            self._arrived.notify_all()


class Twctl:
    """The command line of one person, with the settings in the environment."""

    def __init__(
        self,
        daemon: Daemon,
        identity: Identity | None,
        *,
        program: Sequence[str] = MODULE,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.daemon = daemon
        self.program = program
        self.environment = settings(
            daemon.address, daemon.certs, identity, home=daemon.place.base
        ) | dict(environment or {})

    def __call__(self, *arguments: str, within: float = 30.0) -> Completed:
        """Run it to its end."""
        return call(
            *arguments,
            environment=self.environment,
            program=self.program,
            within=within,
        )

    def start(self, *arguments: str) -> Running:
        """Start it and return at once."""
        return Running(self.popen(*arguments))

    def popen(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start it with pipes that the caller reads and closes."""
        return subprocess.Popen(
            [*self.program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=self.environment,
        )

    def run(self, *arguments: str) -> str:
        """Start a job and return its ID."""
        done = self("run", *arguments)
        job = done.stdout.decode().removesuffix("\n")

        assert done.code == 0, done.stderr
        assert UUID.fullmatch(job), done.stdout
        self.daemon.jobs.add(job)
        return job

    def shell(self, script: str, *options: str) -> str:
        """Start a job that is a shell script and return its ID."""
        return self.run(*options, "sh", "-c", script)

    def status(self, job: str) -> dict[str, Any]:
        """Return what `status -o json` says."""
        done = self("status", "-o", "json", job)
        assert done.code == 0, done.stderr
        assert isinstance(done.json, dict)
        return done.json

    def ended(self, job: str) -> dict[str, Any]:
        """Wait until *job* has ended and return its status."""
        self("wait", job)
        status = self.status(job)
        assert status["state"] in FINAL
        return status

    def output(self, job: str) -> str:
        """Follow stdout of *job* to its end and return it."""
        done = self("tail", "-f", job)
        assert done.code == 0, done.stderr
        return done.stdout.decode()

    def until_printed(self, job: str, data: bytes) -> bytes:
        """Wait until *job* has written *data* to stdout; return all so far."""
        with self.start("tail", "-f", job) as reader:
            return reader.until(data)


def call(
    *arguments: str,
    environment: Mapping[str, str],
    program: Sequence[str] = MODULE,
    within: float = 30.0,
) -> Completed:
    """Run `twctl` in *environment* to its end."""
    done = subprocess.run(
        [*program, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        cwd=ROOT,
        env=environment,
        timeout=within,
    )
    stderr = done.stderr.decode()
    assert "Traceback" not in stderr, stderr
    return Completed(done.returncode, done.stdout, stderr)


def settings(
    address: str, certs: Certificates, identity: Identity | None, *, home: Path
) -> dict[str, str]:
    """Return an environment in which `twctl` speaks to *address* as *identity*."""
    environment = clean_environment() | {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "TWCTL_HOST": address,
        "TWCTL_CA": str(certs.ca),
    }

    if identity is not None:
        environment |= {
            "TWCTL_CERT": str(identity.cert),
            "TWCTL_KEY": str(identity.key),
        }

    return environment


def wait_for_state(twctl: Twctl, job: str, state: str) -> None:
    """Wait until *job* is in *state*."""
    wait_for(lambda: twctl.status(job)["state"] == state, what=f"state {state}")


def seconds_since(begin: float) -> float:
    """Return the seconds since *begin* of the monotonic clock."""
    return time.monotonic() - begin
