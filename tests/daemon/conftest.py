"""Directories and daemons, on a machine that is left as it was."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.daemon.process import Daemon
from tests.e2e.pki import Certificates
from tests.keeper.conftest import machine, place
from tests.keeper.kept import Place


__all__ = ["machine", "place"]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is undone after the test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def started(place: Place, certs: Certificates, stack: ExitStack) -> Daemon:
    """A daemon that serves."""
    daemon = Daemon(place, certs.directory)
    stack.callback(daemon.discard)
    daemon.address()
    return daemon
