"""A daemon that runs out of something, and clients that look how it fares."""

import asyncio
import hashlib
import os
import resource
import subprocess
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

import twctl
from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import JobState, Reason
from tests.e2e.daemon import Daemon
from tests.e2e.groups import ROOT
from tests.e2e.pki import Certificates
from tests.e2e.processes import Process
from tests.e2e.waiting import wait_for
from twctl import RemoteJob as Job


T = TypeVar("T")

DEADLINE: Final = 15.0  # seconds; what it bounds takes one at most
IDLE: Final = 2.0  # seconds in which nothing is asked
TICKS: Final = os.sysconf("SC_CLK_TCK")
_KINDS: Final = {resource.RLIMIT_NOFILE: "--nofile", resource.RLIMIT_AS: "--as"}
SEQ: Final = "seq 20000"
LINES: Final = b"".join(b"%d\n" % number for number in range(1, 20_001))
SHA256: Final = hashlib.sha256(LINES).digest()


def connect(
    daemon: Daemon, certs: Certificates
) -> AbstractAsyncContextManager[twctl.Client]:
    """Connect as alice."""
    alice = certs.of("alice")
    return twctl.connect(daemon.address, ca=certs.ca, cert=alice.cert, key=alice.key)


@contextmanager
def no_descriptors(process: Process, *, left: int = 0) -> Iterator[None]:
    """Let *process* open *left* descriptors more, and then no other."""
    used = {int(entry.name) for entry in descriptors(process)}
    lowest = next(number for number in count() if number not in used)

    with limited(process, resource.RLIMIT_NOFILE, lowest + left):
        yield


@contextmanager
def limited(process: Process, kind: int, soft: int) -> Iterator[None]:
    """Lower the soft limit *kind* of *process*, if that lives, for a while."""
    before = _limit(process, kind, soft)

    try:
        yield
    finally:
        if process.is_alive:
            _limit(process, kind, before)


def _limit(process: Process, kind: int, soft: int) -> int:
    """Change a soft limit of *process*; return what it was."""
    before = _prlimit(process, "--raw", "--noheadings", "--output=SOFT", _KINDS[kind])
    value = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
    _prlimit(process, f"{_KINDS[kind]}={value}:")
    is_infinite = before.strip() == "unlimited"
    return resource.RLIM_INFINITY if is_infinite else int(before)


def _prlimit(process: Process, *arguments: str) -> str:
    status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    uid, gid = (
        int(line.split()[1]) for line in status if line.startswith(("Uid:", "Gid:"))
    )
    # As its own account: in some containers root may not do so for another one.
    done = subprocess.run(
        ["prlimit", f"--pid={process.pid}", *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        user=uid,
        group=gid,
        extra_groups=[],
    )
    return done.stdout


def descriptors(process: Process) -> list[Path]:
    """Return what *process* has open."""
    return list(Path(f"/proc/{process.pid}/fd").iterdir())


def children(process: Process) -> set[str]:
    """Return the pids of those that *process* started, zombies too."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return set(path.read_text().split())


@contextmanager
def no_processes(process: Process) -> Iterator[None]:
    """Let *process* have no more children, in a group of the test's own."""
    top = ROOT / "pids"

    if not (top / "cgroup.procs").exists():
        pytest.skip("there is no controller pids of version 1")

    [home] = [
        top / line.split(":", 2)[2].strip("/")
        for line in Path(f"/proc/{process.pid}/cgroup").read_text().splitlines()
        if line.split(":")[1] == "pids"
    ]
    group = top / f"teleworker-e2e-{process.pid}"
    group.mkdir()

    try:
        (group / "cgroup.procs").write_text(str(process.pid))
        current = (group / "pids.current").read_text()
        (group / "pids.max").write_text(current)
        yield
    finally:
        (group / "pids.max").write_text("max")

        for pid in (group / "cgroup.procs").read_text().split():
            (home / "cgroup.procs").write_text(pid)

        group.rmdir()


def cpu_seconds(*processes: Process) -> float:
    """Return the processor time that *processes* have used."""
    stats = [Path(f"/proc/{one.pid}/stat").read_text() for one in processes]
    fields = [stat.rpartition(")")[2].split() for stat in stats]
    return sum(int(ticks) for each in fields for ticks in each[11:13]) / TICKS


async def idle_load(daemon: Daemon) -> float:
    """Return how much of a processor the daemon uses while nobody asks."""
    before = cpu_seconds(daemon.keeper, daemon.server)
    await asyncio.sleep(IDLE)
    return (cpu_seconds(daemon.keeper, daemon.server) - before) / IDLE


def shell(
    client: twctl.Client,
    script: str,
    *,
    mem: int | None = None,
    cpu: int | None = None,
    timeout: float | None = None,
) -> Coroutine[Any, Any, Job]:
    """Start a job that is a shell script."""
    return client.run(["sh", "-c", script], mem=mem, cpu=cpu, timeout=timeout)


async def read(job: Job) -> bytes:
    """Follow *job* to its end."""
    return b"".join([chunk.data async for chunk in job.output()])


async def within(what: Awaitable[T]) -> T:
    """Await *what*, which happens at once or never."""
    return await asyncio.wait_for(what, DEADLINE)


async def seen(look: Callable[[], object], *, what: str) -> None:
    """Wait until *look* is true, and let everything go on meanwhile."""
    await asyncio.to_thread(wait_for, look, what=what, within=DEADLINE)


def new_log(daemon: Daemon, before: str) -> str:
    """Return what was logged after *before*, and fail if that has a traceback."""
    text = daemon.log().removeprefix(before)
    assert "Traceback" not in text, text
    return text


def assert_exact(status: JobStatus, *, code: int) -> None:
    """Check that a job has ended by itself with *code*, and its digest is right."""
    assert (status.state, status.exit_code) == (JobState.FINISHED, code)
    assert status.reason is Reason.EXITED
    assert (status.stdout.end, status.stdout.sha256) == (len(LINES), SHA256)


async def heard_of(job: Job, data: bytes) -> None:
    """Wait until *job* has printed *data*."""
    seen = b""

    async with asyncio.timeout(DEADLINE):
        async with aclosing(job.output()) as output:
            async for chunk in output:
                seen += chunk.data

                if data in seen:
                    return


def memory(process: Process) -> int:
    """Return the size of *process*'s address space, in bytes."""
    pages = Path(f"/proc/{process.pid}/statm").read_text().split()[0]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
