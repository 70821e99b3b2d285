"""What every test may use: both event loops, and certificates that are in order."""

import asyncio
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import uvloop

from tests.e2e.pki import Certificates, generate


LoopFactories = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]


def pytest_configure() -> None:
    """Have programs that tests start act on Ctrl-C and on a lost terminal.

    What a shell starts in the background, or nohup anywhere, ignores them, and so
    would all that it starts.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> LoopFactories:
    """Every asynchronous test runs on asyncio's own loop and on uvloop."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """One CA with a server on loopback and two clients, `alice` and `bob`."""
    directory: Path = tmp_path_factory.mktemp("pki") / "certs"
    return generate(directory, "alice", "bob")
