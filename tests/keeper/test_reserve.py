"""What must be written on a full disk: the end of a job, and who its daemon is."""

import hashlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Final

import pytest

from teleworkerd.config import Config
from teleworkerd.execution import ExitRecord
from teleworkerd.keeper.messages import JobExited
from teleworkerd.keeper.orders import SignalJob, StopJob
from teleworkerd.keeper.state_dir import StateDirectory
from teleworkerd.output.gaps import read_gaps
from teleworkerd.protocol.types import OnFull, Reason, Stream
from tests.keeper.kept import (
    KeeperProcess,
    KeptJob,
    Place,
    eventually,
    is_alive,
    with_jobs,
)
from tests.keeper.moving import fill, small_disk


DISK: Final = 4 << 20
LINES: Final = 200_000  # which take 1.3 MB
QUICK: Final = "import teleworkerd.keeper.keeper as keeper; keeper._FILL_EVERY = 0.05"


def quick(place: Place) -> Config:
    """Return a configuration with an end that waits little."""
    return with_jobs(place.config(), drain_timeout=0.2, linger=0)


def is_full(path: Path) -> bool:
    """Whether the disk of *path* has no room for what a spool would write."""
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize < 16 << 10


def waiting(keeper: KeeperProcess, gate: Path, script: str) -> KeptJob:
    """Launch a job that does *script* once there is a *gate*."""
    wait = f"until [ -e {gate} ]; do sleep 0.02; done"
    job = keeper.launch("sh", "-c", f"{wait}; {script}")
    job.launched()
    return job


def read_exit(job: KeptJob) -> ExitRecord | None:
    """Return the exit record of *job*."""
    return job.directory.read_exit()


def check_end(job: KeptJob, reason: Reason) -> None:
    """Check that the job is over, and all that is written of it agrees."""
    record = job.exited()
    gaps = [(gap.offset, gap.stop) for gap in read_gaps(job.directory.gaps)]

    assert job.directory.read_exit() == record
    assert record.reason is reason
    assert record.stdout_dropped == sum(stop - start for start, stop in gaps)
    assert record.stdout - record.stdout_dropped == len(job.output())
    assert gaps[-1][1] == record.stdout
    assert not record.truncated


@pytest.mark.parametrize("end", ["kill", "stop", "grace"])
def test_ended_on_a_full_disk(place: Place, end: str) -> None:
    """A job that is ended while the disk is full is over at once, with its record.

    Another that waits for room gets it later, and has lost nothing.
    """
    with small_disk(place.state, DISK), KeeperProcess(quick(place)) as keeper:
        ballast = place.state / "ballast"
        ballast.write_bytes(bytes(DISK // 4 * 3))
        gate = place.shared / "gate"
        trap = "trap '' TERM;" if end == "grace" else ""
        job = waiting(keeper, gate, f"{trap} cat /dev/zero")
        other = waiting(keeper, gate, f"seq {LINES}; echo end >&2; exit 3")
        gate.touch()
        assert {job.held_up(), other.held_up()} == {"the disk is full"}
        start = time.monotonic()

        if end == "kill":
            keeper.send(SignalJob(job.id, signal.SIGKILL, tree=False))
        else:
            keeper.send(StopJob(job.id, Reason.KILLED, grace=0.2))

        check_end(job, Reason.KILLED)
        assert time.monotonic() - start < 3
        assert is_full(place.state)
        assert not keeper.has_told(JobExited, seconds=0.2)

        ballast.unlink()
        record = other.exited()
        lines = b"".join(b"%d\n" % number for number in range(1, LINES + 1))

        assert (record.exit_code, record.stdout_dropped) == (3, 0)
        assert hashlib.sha256(other.output()).digest() == hashlib.sha256(lines).digest()
        assert other.output(Stream.STDERR) == b"end\n"


def test_many_ended_on_a_full_disk(place: Place) -> None:
    """The reserve is enough for many, whatever else waits for each byte of it."""
    with small_disk(place.state, DISK), KeeperProcess(quick(place)) as keeper:
        jobs = [keeper.launch("cat", "/dev/zero") for _ in range(8)]

        for job in jobs:
            job.launched()

        for job in jobs:
            job.held_up()

        for job in jobs:
            keeper.send(SignalJob(job.id, signal.SIGKILL, tree=False))

        for job in jobs:
            check_end(job, Reason.KILLED)


@pytest.mark.parametrize("on_full", [OnFull.DROP, OnFull.KILL])
def test_policies_on_a_full_disk(place: Place, on_full: OnFull) -> None:
    """Nor does a job that drops, or is ended for it, wait with its record."""
    with small_disk(place.state, DISK), KeeperProcess(quick(place)) as keeper:
        command = "head -c 8000000 /dev/zero; sleep 300"
        job = keeper.launch("sh", "-c", command, on_full=on_full)
        job.launched()

        if on_full is OnFull.DROP:
            eventually(lambda: is_full(place.state), what="a full disk")
            keeper.send(SignalJob(job.id, signal.SIGKILL, tree=False))

        dropped = on_full is OnFull.DROP
        check_end(job, Reason.KILLED if dropped else Reason.OUTPUT)


def test_ended_after_its_process(place: Place) -> None:
    """Who no longer wants to wait for the last output of a job can say so."""
    with small_disk(place.state, DISK), KeeperProcess(quick(place)) as keeper:
        ballast = place.state / "ballast"
        ballast.write_bytes(bytes(DISK - (512 << 10)))
        job = keeper.launch("head", "-c", "600000", "/dev/zero")
        pid = job.launched().launched.pid
        eventually(lambda: not is_alive(pid), what="the end of the process")
        assert not keeper.has_told(JobExited, seconds=1.0)
        keeper.send(StopJob(job.id, Reason.KILLED))

        check_end(job, Reason.EXITED)


def test_end_of_the_keeper(place: Place) -> None:
    """A keeper that ends on a full disk writes down how its jobs did."""
    with small_disk(place.state, DISK):
        with KeeperProcess(quick(place)) as keeper:
            jobs = [keeper.launch("cat", "/dev/zero") for _ in range(3)]

            for job in jobs:
                job.launched()
                job.held_up()

            start = time.monotonic()
            keeper.close()
            assert time.monotonic() - start < 5

        reasons = [record and record.reason for record in map(read_exit, jobs)]
        assert reasons == [Reason.SHUTDOWN] * 3


def test_without_a_reserve(place: Place) -> None:
    """Where nothing is left to give up, the record comes as soon as there is room."""
    with small_disk(place.state, DISK), KeeperProcess(quick(place)) as keeper:
        job = keeper.launch("sleep", "300")
        job.launched()
        (place.state / "reserve").unlink()
        fill(place.state / "ballast")
        keeper.send(SignalJob(job.id, signal.SIGKILL, tree=False))

        assert not keeper.has_told(JobExited, seconds=0.5)
        (place.state / "ballast").unlink()
        assert job.exited().reason is Reason.KILLED
        assert "its exit record must wait: [Errno 28]" in keeper.close()


def test_filled_again(place: Place) -> None:
    """It is there from the start, and again once the disk has room."""
    reserve = place.state / "reserve"

    with (
        small_disk(place.state, DISK),
        KeeperProcess(quick(place), change=QUICK),
    ):
        size = reserve.stat().st_size
        assert DISK // 25 < size <= DISK // 20

        os.truncate(reserve, 0)
        eventually(lambda: reserve.stat().st_size == size, what="a whole reserve")


def test_pid_on_a_full_disk(place: Place) -> None:
    """A daemon that starts on a full disk can be found."""
    with small_disk(place.state, DISK):
        with KeeperProcess(quick(place)):
            fill(place.state / "ballast")

        state = StateDirectory(place.config())
        state.write_pid("keeper", 4711)
        state.write_address("127.0.0.1:1")

        assert (place.state / "keeper.pid").read_text() == "4711\n"
        assert state.address.read_text() == "127.0.0.1:1\n"
        os.close(state._lock)


def test_news_on_a_full_disk(place: Place) -> None:
    """What changes afterwards costs nothing of the reserve, although none is free."""
    reserve = place.state / "reserve"

    with small_disk(place.state, DISK):
        with KeeperProcess(quick(place)):
            fill(place.state / "ballast")

        state = StateDirectory(place.config())
        state.write_facts({"status": "x" * 500})
        state.write_pid("server", 1)
        state.write_address("127.0.0.1:1")
        fill(place.state / "more")
        held = reserve.stat().st_size

        for number in (70000, 5, 1234567):
            state.forget_server()
            fill(place.state / f"more-{number}")
            state.write_facts({"status": "y" * (number % 700)})
            state.write_pid("server", number)
            state.write_address("127.0.0.1:1")

            assert (place.state / "server.pid").read_text() == f"{number}\n"
            facts = json.loads((place.state / "daemon").read_bytes())
            assert facts == {"status": "y" * (number % 700)}

        assert held
        assert reserve.stat().st_size == held
        os.close(state._lock)
