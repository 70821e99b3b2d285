"""Jobs that wait for room for their output: how they go on, and how they end."""

import os
import signal
import time
from dataclasses import replace
from typing import Final

import pytest

from teleworkerd.config import Config
from teleworkerd.execution import Launched
from teleworkerd.keeper.messages import (
    FROM_KEEPER,
    MAX_KEPT,
    JobExited,
    KeptJob,
    KeptJobs,
    OutputHeldUp,
)
from teleworkerd.keeper.orders import SignalJob, StopJob
from teleworkerd.output.gaps import read_gaps
from teleworkerd.protocol.codec import decode, encode
from teleworkerd.protocol.framing import LENGTH
from teleworkerd.protocol.spec import Limits
from teleworkerd.protocol.types import Reason, Stream
from tests.keeper.kept import (
    KeeperProcess,
    Place,
    eventually,
    is_alive,
    with_jobs,
    with_output,
)
from tests.keeper.kept import (
    KeptJob as Job,
)
from tests.keeper.lasting import LastingKeeper


EMPTY: Final = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
LIMIT: Final = 1 << 20

# Doubles what an owner may have, at each SIGHUP.
DOUBLING: Final = """
import asyncio, dataclasses, signal
from teleworkerd.keeper.keeper import Keeper
connect = Keeper.connect
async def connected(keeper, sock):
    def double():
        output = keeper._config.output
        output = dataclasses.replace(output, owner_limit=output.owner_limit * 2)
        keeper.configure(dataclasses.replace(keeper._config, output=output))
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, double)
    return await connect(keeper, sock)
Keeper.connect = connected
"""


def quick(config: Config) -> Config:
    """Return *config* with an end that waits little."""
    config = with_jobs(config, drain_timeout=0.2, linger=0)
    return replace(config, retention=replace(config.retention, interval=1.0))


def gaps_of(job: Job, stream: Stream = Stream.STDOUT) -> list[tuple[int, int]]:
    """Return the gaps that the job's file has."""
    gaps = read_gaps(job.directory.gaps)
    return [(gap.offset, gap.stop) for gap in gaps if gap.stream is stream]


def writes(count: int, then: str = "") -> tuple[str, str, str]:
    """Return a command that writes *count* bytes."""
    return "sh", "-c", f"head -c {count} /dev/zero; {then}"


def test_block_until_a_removal(place: Place) -> None:
    """A job that waits for room goes on when another is removed; nothing is lost."""
    config = with_output(place.config(), owner_limit=LIMIT)

    with KeeperProcess(config) as keeper:
        old = keeper.launch(*writes(LIMIT - 100))
        old.exited()
        job = keeper.launch("sh", "-c", "seq 100000; echo end >&2; exit 3")
        job.launched()

        assert job.held_up() == (
            "alice's 1 MiB of output are used up: remove jobs with twctl rm"
        )
        assert len(job.output() + job.output(Stream.STDERR)) == 100

        assert old.remove() is None
        assert job.held_up() is None
        record = job.exited()

    assert job.output().split() == [b"%d" % n for n in range(1, 100_001)]
    assert job.output(Stream.STDERR) == b"end\n"
    assert (record.exit_code, record.stdout_dropped) == (3, 0)
    assert not job.directory.gaps.exists()


def test_new_server_hears_of_it(place: Place) -> None:
    """A server that comes later is told that a job is held up, and of the end of it."""
    config = with_output(place.config(), total_limit=10)

    with LastingKeeper(config) as keeper:
        old = keeper.launch("echo", "1234")
        old.exited()
        job = keeper.launch("sh", "-c", "echo 12345678; sleep 300")
        job.launched()
        why = job.held_up()
        keeper.replace_server()
        (kept,) = keeper.welcome.jobs
        told = keeper.has_told(OutputHeldUp, seconds=0.2)
        old.remove()

        assert (kept.held_up, kept.stdout, told) == (why, 5, False)
        assert job.held_up() is None


def test_largest_message() -> None:
    """A frame holds as many jobs as there may be in it, all of them held up."""
    launched = Launched(1 << 31, 1 << 62, "x" * 255, Limits(mem=4, cpu=5, io=6))
    why = f"{'ü' * 255}'s {1 << 63} bytes of output are used up: remove jobs with twctl"
    job = KeptJob("j" * 36, launched, 1 << 62, 1 << 62, why)
    (frame,) = encode(KeptJobs((job,) * MAX_KEPT))

    assert decode(frame[LENGTH.size :], FROM_KEEPER) == KeptJobs((job,) * MAX_KEPT)


@pytest.mark.parametrize("stop", [True, False], ids=["stop", "kill"])
def test_end_of_a_blocked_job(place: Place, stop: bool) -> None:  # noqa: FBT001
    """A job that waits for room can be ended; what is in its pipes is a gap then."""
    config = with_output(quick(place.config()), owner_limit=LIMIT)

    with KeeperProcess(with_jobs(config, drain_timeout=20.0)) as keeper:
        job = keeper.launch("sh", "-c", "trap '' TERM; cat /dev/zero")
        job.launched()
        job.held_up()
        start = time.monotonic()

        if stop:
            keeper.send(StopJob(job.id, Reason.SHUTDOWN, grace=0.1))
        else:
            keeper.send(SignalJob(job.id, signal.SIGKILL, tree=False))

        record = job.exited()

        assert time.monotonic() - start < 5

    assert record.reason is (Reason.SHUTDOWN if stop else Reason.KILLED)
    assert record.stdout - record.stdout_dropped == LIMIT == len(job.output())
    assert gaps_of(job) == [(LIMIT, record.stdout)]
    assert not record.truncated


def test_blocked_job_with_its_own_limit(place: Place) -> None:
    """One that has ended by itself has nothing to wait for at its own limit."""
    config = with_jobs(place.config(), drain_timeout=20.0)

    with KeeperProcess(config) as keeper:
        start = time.monotonic()
        record, text = keeper.run("echo", "abcdefgh", output_limit=4)

        assert time.monotonic() - start < 5

    assert (record.exit_code, record.reason, text) == (0, Reason.EXITED, b"abcd")
    assert (record.stdout, record.stdout_dropped) == (9, 5)


def test_last_output_without_room(place: Place) -> None:
    """What a job wrote last waits as long as retention may take to make room."""
    config = with_output(quick(place.config()), owner_limit=10)

    with KeeperProcess(config) as keeper:
        old = keeper.launch("echo", "123456789")
        old.exited()
        first = keeper.launch("echo", "first")
        pid = first.launched().launched.pid
        eventually(lambda: not is_alive(pid), what="the end of the process")
        assert first.held_up()
        start = time.monotonic()
        record = first.exited()
        late = time.monotonic() - start
        second = keeper.launch("echo", "second")
        assert second.held_up()
        old.remove()
        complete = second.exited()

    assert late < 5
    assert (record.stdout, record.stdout_dropped) == (6, 6)
    assert record.stdout_sha256 == EMPTY
    assert (complete.stdout_dropped, second.output()) == (0, b"second\n")


def test_stop_of_one_that_only_waits_for_room(place: Place) -> None:
    """A job whose process is gone needs no grace."""
    config = with_output(quick(place.config()), owner_limit=10)
    config = replace(config, retention=replace(config.retention, interval=3600.0))

    with KeeperProcess(config) as keeper:
        job = keeper.launch("echo", "more than that")
        pid = job.launched().launched.pid
        job.held_up()
        eventually(lambda: not is_alive(pid), what="the end of the process")
        assert not keeper.has_told(JobExited, seconds=0.5)
        keeper.send(StopJob(job.id, Reason.KILLED))
        record = job.exited()

    assert (record.reason, record.stdout_dropped) == (Reason.EXITED, 5)


def test_end_of_a_keeper_with_blocked_jobs(place: Place) -> None:
    """Jobs that wait for room do not keep the daemon from ending, nor lose a count."""
    with KeeperProcess(with_output(place.config(), owner_limit=LIMIT)) as keeper:
        jobs = [keeper.launch("cat", "/dev/zero") for _ in range(3)]

        for job in jobs:
            job.launched()
            job.held_up()

        start = time.monotonic()
        keeper.close()

        assert time.monotonic() - start < 5

    records = [job.directory.read_exit() for job in jobs]
    assert sum(
        record.stdout - record.stdout_dropped for record in records if record
    ) == sum(len(job.output()) for job in jobs)


def test_reload(place: Place) -> None:
    """A limit that is raised lets those who wait for it go on."""
    config = with_output(place.config(), owner_limit=10)

    with KeeperProcess(config, change=DOUBLING) as keeper:
        job = keeper.launch("echo", "12345678901234")
        job.launched()
        job.held_up()
        os.kill(keeper.pid, signal.SIGHUP)

        assert job.held_up() is None
        assert job.exited().stdout_dropped == 0
