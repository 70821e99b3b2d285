"""Where a test lets a process of the daemon die, and what such a death leaves."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

import twctl
from tests.e2e.daemon import END, UUID, Daemon, Place
from tests.e2e.groups import left_of
from tests.e2e.processes import wait_until_gone
from tests.e2e.waiting import wait_for


T = TypeVar("T")

VARIABLE: Final = "TELEWORKERD_FAILPOINTS"


class Failpoints:
    """The points that daemons in *place* come by; none is armed at first."""

    def __init__(self, place: Place) -> None:
        self._directory = place.base / "failpoints"
        self._directory.mkdir()
        self._directory.chmod(0o777)  # for the server, which is not root any more

    @property
    def environment(self) -> dict[str, str]:
        """What a daemon needs in its environment to come by them."""
        return {VARIABLE: str(self._directory)}

    def arm(self, point: str, error: str = "") -> None:
        """Let who comes by *point* next die there, or meet *error* (`ENOSPC`)."""
        # By rename: who reads it half written would die instead.
        new = self._directory / f".{point}.new"
        new.write_text(error)
        new.rename(self._directory / point)

    def armed(self) -> set[str]:
        """Return the points by which nobody has come."""
        return set(os.listdir(self._directory))  # noqa: PTH208  names they are


def kill_server(daemon: Daemon) -> None:
    """Kill the server, and wait until the next one serves."""
    server = daemon.server
    os.kill(server.pid, signal.SIGKILL)
    daemon.successor_of(server)
    ask(daemon, lambda client: client.info())


def kill_daemon(daemon: Daemon) -> None:
    """Kill keeper and server; their jobs go on."""
    keeper, server = daemon.keeper, daemon.server

    for one in (keeper, server):
        with contextlib.suppress(ProcessLookupError):
            os.kill(one.pid, signal.SIGKILL)

    daemon.process.wait(END)
    wait_until_gone({keeper, server})


def end_orphans(place: Place) -> None:
    """End what jobs still run, with no daemon to do it, and remove their groups."""
    names = {path.name for path in place.state.glob("jobs/*")}
    jobs = {name for name in names if UUID.fullmatch(name)}

    for directory in left_of(jobs):
        for pid in (directory / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def look() -> bool:
        for directory in left_of(jobs):
            with contextlib.suppress(OSError):
                directory.rmdir()

        return not left_of(jobs)

    wait_for(look, what="end of the groups")


def processes_of(job: str) -> set[int]:
    """Return the pids of what *job* has started, by their environment."""
    mark = f"TELEWORKER_JOB_ID={job}".encode()
    found = set()

    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.add(int(entry.name))

    return found


def connect(daemon: Daemon, name: str = "alice") -> twctl.Client:
    """Return the client of *name*, for `async with`."""
    identity = daemon.certs.of(name)
    return twctl.connect(
        daemon.address, ca=daemon.certs.ca, cert=identity.cert, key=identity.key
    )


def ask(
    daemon: Daemon,
    question: Callable[[twctl.Client], Awaitable[T]],
    *,
    name: str = "alice",
) -> T:
    """Return the answer to *question*, asked as *name* on a connection of its own."""

    async def run() -> T:
        async with connect(daemon, name) as client:
            return await question(client)

    return asyncio.run(run())


async def run_again(client: twctl.Client, *command: str, request_id: str) -> str:
    """Return the id of the job that a request makes or has made, whatever came of it.

    It is asked for until that is known.
    """
    while True:
        try:
            return (await client.run(command, request_id=request_id)).id
        except twctl.LaunchFailed as error:
            return str(error.details["job"])
        except twctl.Unavailable:
            await asyncio.sleep(0.05)


async def read(
    client: twctl.Client, job: str, stream: twctl.Stream = twctl.Stream.STDOUT
) -> bytes:
    """Return what there is of one stream of *job*, to its end."""
    return b"".join([chunk.data async for chunk in client.job(job).output(stream)])
