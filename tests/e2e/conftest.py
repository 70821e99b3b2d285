"""Daemons for the tests that start the real thing, and the people who use them."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.commandline import Twctl
from tests.e2e.daemon import Daemon, Place, StartDaemon
from tests.e2e.pki import Certificates


if TYPE_CHECKING:
    from tests.e2e.sitting import Sit


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
def sit(alice: Twctl) -> "Iterator[Sit]":
    """Sit down at a terminal, and call `twctl`, as `sitting` says."""
    # Where only limits are tested there is nobody to sit down, nor pexpect.
    from tests.e2e.sitting import sitting  # noqa: PLC0415

    with sitting(alice) as call:
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
