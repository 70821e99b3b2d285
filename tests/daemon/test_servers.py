"""Servers that fail, hang or are unwanted at the worst of times."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Final

import pytest

from teleworkerd import __version__
from teleworkerd.daemon.facts import DaemonFacts, DaemonState
from tests.daemon.process import Daemon, copy_of
from tests.e2e.pki import Certificates
from tests.keeper.kept import ROOT, Place, eventually, is_alive


# Does *then* with each server that is made, of which `number` counts the others.
SPAWNED: Final = """
import os, signal
import teleworkerd.daemon.servers as servers
make, number = servers.spawn, -1
async def spawn(*arguments, **options):
    global number
    number += 1
    server = await make(*arguments, **options)
    {then}
    return server
servers.spawn = spawn
"""
SECOND_HANGS: Final = SPAWNED.format(
    then="number == 1 and os.kill(server.pid, signal.SIGSTOP)"
)
HANGS: Final = SPAWNED.format(then="os.kill(server.pid, signal.SIGSTOP)")


@pytest.mark.parametrize("error", ["MemoryError", "RuntimeError('no')", "OSError(24)"])
@pytest.mark.parametrize("place_of_it", ["spawn", "connect"])
def test_server_that_cannot_be_made(
    place: Place, certs: Certificates, stack: ExitStack, error: str, place_of_it: str
) -> None:
    """Whatever it is that fails, the daemon and its jobs go on, with the next one."""
    change = f"""
import teleworkerd.daemon.servers as servers
from teleworkerd.keeper.keeper import Keeper
owner, name = {{"spawn": (servers, "spawn"), "connect": (Keeper, "connect")}}[
    {place_of_it!r}
]
do, number = getattr(owner, name), 0
async def fail_once(*arguments, **options):
    global number
    number += 1
    if number == 2:
        raise {error}
    return await do(*arguments, **options)
setattr(owner, name, fail_once)
"""
    daemon = Daemon(place, certs.directory, change=change)
    stack.callback(daemon.discard)
    daemon.has_bug = True
    daemon.address()
    first = daemon.server()
    os.kill(first, signal.SIGKILL)
    eventually(lambda: daemon.log().count("ready; listening") == 2, what="another")

    assert "no server could be started; starting another" in daemon.log()
    assert daemon.process.poll() is None
    daemon.process.terminate()
    assert daemon.end() == 0


def test_server_that_nobody_attends_to(
    place: Place, certs: Certificates, stack: ExitStack
) -> None:
    """A server is replaced when we fail to say that it is ready."""
    change = """
from teleworkerd.keeper.state_dir import StateDirectory
write, number = StateDirectory.write_address, 0
def fail_once(*arguments):
    global number
    number += 1
    if number == 2:
        raise RuntimeError("no")
    write(*arguments)
StateDirectory.write_address = fail_once
"""
    daemon = Daemon(place, certs.directory, change=change)
    stack.callback(daemon.discard)
    daemon.has_bug = True
    daemon.address()
    os.kill(daemon.server(), signal.SIGKILL)
    eventually(lambda: daemon.log().count("ready; listening") == 2, what="another")

    assert "the server is not attended to: replaced" in daemon.log()
    assert daemon.log().count("was killed by SIGKILL; starting another") == 2


def test_server_that_hangs_before_it_is_ready(
    place: Place, certs: Certificates, stack: ExitStack
) -> None:
    """It is replaced, after more time than one that serves has."""
    change = f"{SECOND_HANGS}\nservers._START = 3"
    daemon = Daemon(
        place, certs.directory, change=change, config="[server]\nwatchdog = 1\n"
    )
    stack.callback(daemon.discard)
    daemon.address()
    first = daemon.server()
    os.kill(first, signal.SIGKILL)
    second = daemon.next_server(first)
    begin = time.monotonic()
    daemon.next_server(second)

    assert time.monotonic() - begin > 2
    assert "the server has answered nothing for 3 s: replaced" in daemon.log()
    eventually(lambda: daemon.log().count("ready; listening") == 2, what="service")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
@pytest.mark.parametrize("leaving", ["end", "leave"])
def test_order_for_a_server_that_hangs(
    place: Place, certs: Certificates, stack: ExitStack, number: int, leaving: str
) -> None:
    """A server that was told before it could hear has no more time than others."""
    daemon = Daemon(
        place,
        certs.directory,
        change=f"{SECOND_HANGS}\nservers.GOODBYE = 0.5",
        config=f"[jobs]\nshutdown_grace = 0.1\nat_shutdown = '{leaving}'\n",
    )
    stack.callback(daemon.discard)
    daemon.address()
    first = daemon.server()
    os.kill(first, signal.SIGKILL)
    second = daemon.next_server(first)
    daemon.process.send_signal(number)
    eventually(lambda: "it is ended by force" in daemon.log(), what="the deadline")
    eventually(lambda: not is_alive(second), what="its end")

    if number == signal.SIGTERM:
        assert daemon.end() == 0
    else:
        daemon.next_server(second)
        eventually(lambda: daemon.log().count("ready; listening") == 2, what="another")


def test_restart_before_the_first_is_ready(
    place: Place, certs: Certificates, stack: ExitStack
) -> None:
    """It is replaced all the same; that it never was ready is not its fault."""
    change = SPAWNED.format(then="number or os.kill(os.getpid(), signal.SIGUSR2)")
    daemon = Daemon(place, certs.directory, change=change)
    stack.callback(daemon.discard)
    daemon.address()

    def is_serving() -> bool:
        facts = DaemonFacts.read(place.state)
        assert facts is not None
        return facts.state is DaemonState.SERVING and facts.restarts == 1

    eventually(is_serving, what="the second server")
    assert daemon.log().count("ready; listening") == 1
    assert "the server has left; starting another" in daemon.log()


def test_end_at_once_before_the_first_is_ready(
    place: Place, certs: Certificates, stack: ExitStack
) -> None:
    """The second SIGTERM ends a server that is only being made."""
    twice = "import asyncio; [(os.kill(os.getpid(), 15), await asyncio.sleep(0.2))"
    change = SPAWNED.format(
        then=f"{twice} for _ in range(2)]; os.kill(server.pid, signal.SIGSTOP)"
    )
    begin = time.monotonic()
    daemon = Daemon(place, certs.directory, change=change)
    stack.callback(daemon.discard)

    assert daemon.end() == 0
    assert time.monotonic() - begin < 8


def test_pause_after_a_server_that_was_ready(started: Daemon) -> None:
    """Servers that die as soon as they are ready follow less and less quickly."""
    begin = time.monotonic()

    for number in range(1, 5):
        server = started.server()
        os.kill(server, signal.SIGKILL)
        started.next_server(server)
        eventually(
            lambda: started.log().count("ready; listening") == number + 1,  # noqa: B023
            what="another",
        )

    assert time.monotonic() - begin > 0.1 + 0.2 + 0.4 + 0.8


def test_status_while_the_next_is_started(
    place: Place, certs: Certificates, stack: ExitStack
) -> None:
    """Nothing is said of a pause that is over."""
    daemon = Daemon(place, certs.directory, change=SECOND_HANGS)
    stack.callback(daemon.discard)
    daemon.address()
    first = daemon.server()
    os.kill(first, signal.SIGKILL)
    second = daemon.next_server(first)
    facts = DaemonFacts.read(place.state)
    assert facts is not None

    assert facts.status == (
        "the server was killed by SIGKILL; starting another, jobs go on"
    )
    assert facts.server_pid in (None, second)
    os.kill(second, signal.SIGKILL)


def test_keeper_of_another_version(
    place: Place, certs: Certificates, stack: ExitStack
) -> None:
    """A server refuses a keeper that has outlived its own program, in words."""
    change = "import teleworkerd; teleworkerd.__version__ = '0.0.1'"
    daemon = Daemon(place, copy_of(certs, place), change=change)
    stack.callback(daemon.discard)

    assert daemon.end() == 1
    assert re.search(
        f"cannot serve: the keeper runs 0.0.1, this server is {__version__};"
        " restart the daemon when its jobs are over$",
        daemon.log(),
        re.MULTILINE,
    )


def test_version_alone() -> None:
    """The version is looked at before anything that it may have changed."""
    with subprocess.Popen(
        [sys.executable, "-m", "teleworkerd.server", "0.0.1"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as server:
        _, told = server.communicate(timeout=20)

    assert server.returncode == 1
    assert told.startswith("cannot serve: the keeper runs 0.0.1, ")
