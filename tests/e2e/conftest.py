"""Daemons for the tests that start the real thing, and the people who use them."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pexpect
import pytest

from tests.e2e.commandline import Twctl
from tests.e2e.daemon import Daemon, Place, StartDaemon
from tests.e2e.pki import Certificates
from tests.e2e.sitting import WITHIN, Sit


@pytest.fixture(scope="session", autouse=True)
def root() -> None:
    """Run as root only."""
    if os.geteuid() != 0:
        pytest.skip("needs root: jobs run as another account and in cgroups")


@pytest.fixture
def place() -> Iterator[Place]:
    """Directories for a daemon, removed after the test."""
    directories = Place()
    yield directories
    directories.remove()


@pytest.fixture
def start_daemon(place: Place, certs: Certificates) -> Iterator[StartDaemon]:
    """Start daemons with settings of the test's own."""
    usual_place, usual_certs = place, certs

    with ExitStack() as stack:

        def start(
            *,
            place: Place | None = None,
            certs: Certificates | None = None,
            **options: Any,
        ) -> Daemon:
            daemon = Daemon(place or usual_place, certs or usual_certs, **options)
            return stack.enter_context(daemon)

        yield start


@pytest.fixture(scope="module")
def daemon(certs: Certificates) -> Iterator[Daemon]:
    """A daemon with its defaults that the tests of a module share."""
    place = Place()

    try:
        with Daemon(place, certs) as running:
            yield running
    finally:
        place.remove()


@pytest.fixture
def alice(daemon: Daemon, certs: Certificates) -> Twctl:
    """The command line of alice."""
    return Twctl(daemon, certs.of("alice"))


@pytest.fixture
def bob(daemon: Daemon, certs: Certificates) -> Twctl:
    """The command line of bob."""
    return Twctl(daemon, certs.of("bob"))


@pytest.fixture
def sit(alice: Twctl) -> Iterator[Sit]:
    """Sit down at a terminal of 91 columns and 29 rows, and call `twctl`.

    With *line* a shell is told that, where `twctl` is how to call it.
    """
    with ExitStack() as stack:

        def call(
            *arguments: str,
            line: str | None = None,
            environment: Mapping[str, str] | None = None,
        ) -> "pexpect.spawn[bytes]":
            words = [*alice.program, *arguments]

            if line is not None:
                words = ["sh", "-c", line.replace("twctl", shlex.join(alice.program))]

            env: Any = alice.environment | dict(environment or {})
            child: pexpect.spawn[bytes] = pexpect.spawn(
                words[0], words[1:], env=env, timeout=WITHIN, dimensions=(29, 91)
            )
            stack.callback(child.close, force=True)
            return child

        yield call


@pytest.fixture(scope="session")
def python() -> str:
    """A Python interpreter that the jobs' account may run."""
    path = shutil.which("python3", path="/usr/bin:/usr/local/bin:/bin")

    if path is None:
        pytest.skip("there is no python3 in the system's directories")

    probe = subprocess.run(
        [path, "-c", ""], user="nobody", cwd="/", check=False, timeout=30
    )

    if probe.returncode != 0:
        pytest.skip(f"nobody cannot run {path}")

    return str(Path(path))
