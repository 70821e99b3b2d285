"""The end of a job: how it is told, and that nothing of its tree is left."""

import signal
import subprocess
import time
from pathlib import Path

import pytest

from teleworkerd.jobdir import JobDirectory
from teleworkerd.keeper.messages import JobExited
from teleworkerd.keeper.orders import SignalJob, StopJob
from teleworkerd.protocol.spec import Limits
from teleworkerd.protocol.types import Reason
from tests.e2e.groups import left_of
from tests.keeper.kept import (
    KeeperProcess,
    KeptJob,
    Place,
    children_of,
    eventually,
    is_alive,
    with_jobs,
)


# Prints its pid from a session of its own, where SIGHUP and the like do not reach.
ESCAPEE = "setsid sh -c 'echo $$; trap \"\" TERM HUP INT; sleep 300 & wait; wait' &"


def pids_of(job: KeptJob) -> list[int]:
    """Return the numbers that the job has printed."""
    return list(map(int, job.output().split()))


# A keeper that learns of the end of a main process only once there is `{gate}`.
LATE = """
import asyncio, os

process_wait = asyncio.subprocess.Process.wait

async def wait(process):
    code = await process_wait(process)
    print(flush=True)

    while not os.path.exists({gate!r}):
        await asyncio.sleep(0.005)

    return code

asyncio.subprocess.Process.wait = wait
"""


@pytest.mark.parametrize("code", [0, 1, 42, 124, 126, 255])
def test_exit_code(keeper: KeeperProcess, code: int) -> None:
    """The code is the command's own."""
    record, _ = keeper.run("sh", "-c", f"exit {code}")

    assert (record.exit_code, record.signal) == (code, None)
    assert record.reason is Reason.EXITED


@pytest.mark.parametrize("number", [1, 2, 6, 9, 11, 15, 34, 64])
def test_signal(keeper: KeeperProcess, number: int) -> None:
    """A command that a signal ended has no code of its own but 128 + n."""
    record, _ = keeper.run("sh", "-c", f"kill -{number} $$")

    assert (record.exit_code, record.signal) == (128 + number, number)
    assert record.reason is Reason.SIGNALED


def test_exits_before_anything_else(keeper: KeeperProcess) -> None:
    """Many commands that end at once: each is told once, in order, with its code."""
    jobs = [keeper.launch("sh", "-c", f"exit {n % 7}") for n in range(60)]

    for n, job in enumerate(jobs):
        job.launched()
        record = job.exited()
        assert record.exit_code == n % 7
        assert record == job.directory.read_exit()

    assert not keeper.has_told(JobExited, seconds=0)


def test_record_is_there_when_it_is_told(keeper: KeeperProcess) -> None:
    """Whoever hears of the end finds the record on disk and no groups."""
    record, _ = keeper.run("true", limits=Limits(cpu=50))
    job = max(keeper.config.jobs_dir.iterdir(), key=lambda path: path.stat().st_mtime)

    assert JobDirectory(job).read_exit() == record
    assert left_of([job.name]) == []


def test_escapee(keeper: KeeperProcess) -> None:
    """A process in a session of its own, deaf to signals, does not outlive the job."""
    job = keeper.launch("sh", "-c", f"{ESCAPEE} sleep 0.2; exit 3")
    record = job.exited()
    (escapee,) = pids_of(job)

    assert record.exit_code == 3
    assert not is_alive(escapee)
    assert left_of([job.id]) == []
    eventually(lambda: not children_of(keeper.pid), what="no zombie")


def test_kill(keeper: KeeperProcess) -> None:
    """SIGKILL is for the whole tree, at once, and says who ended it."""
    job = keeper.launch("sh", "-c", f"{ESCAPEE} trap '' TERM; sleep 300; exit 3")
    job.launched()
    eventually(job.output, what="pid of the escapee")
    start = time.monotonic()
    keeper.send(SignalJob(job.id, signal.SIGKILL, tree=False))
    record = job.exited()

    assert time.monotonic() - start < 5
    assert (record.reason, record.exit_code) == (Reason.KILLED, 137)
    assert not is_alive(pids_of(job)[0])


def test_kill_with_the_launch(keeper: KeeperProcess) -> None:
    """A kill in the same moment as the launch is not lost."""
    jobs = []

    for _ in range(20):
        job = keeper.launch("sleep", "300")
        keeper.send(SignalJob(job.id, signal.SIGKILL, tree=False))
        jobs.append(job)

    assert {job.exited().reason for job in jobs} == {Reason.KILLED}


def test_stop_with_the_launch(keeper: KeeperProcess) -> None:
    """Nor is a stop; SIGTERM reaches the command, not what came before it."""
    jobs = []

    for _ in range(10):
        job = keeper.launch("sleep", "300")
        keeper.send(StopJob(job.id, Reason.KILLED, grace=60))
        jobs.append(job)

    assert {job.exited().signal for job in jobs} == {signal.SIGTERM}


def test_signal_to_the_main_process(keeper: KeeperProcess) -> None:
    """Other signals go to the main process alone unless the tree is asked for."""
    child = "trap 'echo child' USR1; echo up; while :; do sleep 0.05; done"
    main = f"trap 'echo main; kill $!; exit 9' USR1; sh -c \"{child}\" & wait"
    job = keeper.launch("sh", "-c", main)
    job.launched()
    job.wait_for_output(b"up\n")
    keeper.send(SignalJob(job.id, signal.SIGUSR1, tree=False))
    record = job.exited()

    assert (record.exit_code, record.reason) == (9, Reason.EXITED)
    assert job.output() == b"up\nmain\n"


def test_stop(keeper: KeeperProcess) -> None:
    """A stop is SIGTERM to every process; who obeys needs no grace."""
    job = keeper.launch("sh", "-c", "sleep 300 & wait; exit 3")
    job.launched()
    keeper.send(StopJob(job.id, Reason.KILLED, grace=60))
    record = job.exited()

    assert (record.reason, record.signal) == (Reason.KILLED, signal.SIGTERM)


def test_stop_of_a_stopped_job(keeper: KeeperProcess) -> None:
    """A job that SIGSTOP has halted can still obey."""
    job = keeper.launch("sh", "-c", "trap 'exit 4' TERM; kill -STOP $$; sleep 300")
    pid = job.launched().launched.pid
    eventually(
        lambda: "T (stopped)" in Path(f"/proc/{pid}/status").read_text(), what="a halt"
    )
    keeper.send(StopJob(job.id, Reason.KILLED, grace=60))
    record = job.exited()

    assert (record.exit_code, record.reason) == (4, Reason.KILLED)


def test_grace(keeper: KeeperProcess) -> None:
    """Who does not obey is killed after the grace."""
    job = keeper.launch("sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done")
    job.launched()
    job.wait_for_output(b"up\n")
    keeper.send(StopJob(job.id, Reason.SHUTDOWN, grace=0.1))
    record = job.exited()

    assert (record.reason, record.signal) == (Reason.SHUTDOWN, signal.SIGKILL)


def test_grace_without_end(keeper: KeeperProcess) -> None:
    """Without a grace nobody kills; a later kill still does."""
    # What is to be ended is there before the signal comes.
    script = "trap 'echo no' TERM; sleep 300 & echo up; wait; wait; exit 2"
    job = keeper.launch("sh", "-c", script)
    job.launched()
    job.wait_for_output(b"up\n")
    keeper.send(SignalJob(job.id, signal.SIGTERM, tree=False))
    keeper.send(StopJob(job.id, Reason.KILLED))
    record = job.exited()

    assert (record.exit_code, record.reason) == (2, Reason.KILLED)


def test_timeout(place: Place) -> None:
    """A job's own time-out is SIGTERM, then SIGKILL, and code 124."""
    config = with_jobs(place.config(), timeout_grace=0.1)

    with KeeperProcess(config) as keeper:
        polite, _ = keeper.run("sleep", "300", timeout=0.1)
        deaf, _ = keeper.run(
            "sh", "-c", "trap '' TERM; while :; do sleep 1; done", timeout=0.1
        )

    assert (polite.reason, polite.exit_code) == (Reason.TIMEOUT, 124)
    assert (deaf.reason, deaf.exit_code) == (Reason.TIMEOUT, 124)
    assert (polite.signal, deaf.signal) == (signal.SIGTERM, signal.SIGKILL)


def test_timeout_that_is_not_reached(keeper: KeeperProcess) -> None:
    """A command that ends in time keeps its code."""
    record, _ = keeper.run("sh", "-c", "exit 6", timeout=60)

    assert (record.exit_code, record.reason) == (6, Reason.EXITED)


def test_outside_holder(place: Place) -> None:
    """Who holds a job's output from outside its tree delays its end by a bound."""
    config = with_jobs(place.config(), drain_timeout=0.2, linger=0)

    with KeeperProcess(config) as keeper:
        job = keeper.launch("sh", "-c", "echo x; sleep 300")
        pid = job.launched().launched.pid
        job.wait_for_output(b"x\n")

        with Path(f"/proc/{pid}/fd/1").open("wb"):
            keeper.send(SignalJob(job.id, signal.SIGKILL, tree=True))
            record = job.exited()

    assert (record.truncated, record.stdout) == (True, 2)


def test_cpu_time(keeper: KeeperProcess) -> None:
    """The record says what the job used."""
    script = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"
    record, _ = keeper.run("sh", "-c", script)

    assert record.usage.cpu_seconds is not None
    assert 0 < record.usage.cpu_seconds < 20


def test_kill_just_after_the_main_process(place: Place) -> None:
    """What is to wait for all is not over before the rest has ended."""
    gate = place.shared / "gate"
    change = LATE.format(gate=str(gate))

    with KeeperProcess(place.config(), change=change, stdout=subprocess.PIPE) as keeper:
        job = keeper.launch("sh", "-c", "sleep 300 & echo $!", wait_all=True)
        job.launched()
        assert keeper.process.stdout is not None
        keeper.process.stdout.readline()
        eventually(job.output, what="the job has printed")
        keeper.send(SignalJob(job.id, signal.SIGKILL, tree=True))
        eventually(lambda: not is_alive(pids_of(job)[0]), what="the rest is killed")
        gate.touch()

        assert job.exited().reason is Reason.KILLED


# A keeper whose disk takes an exit record only once there is `{gate}`; it prints when
# it is asked to, and how many timers the job has after that.
BURIED = """
import asyncio, os
from teleworkerd.keeper import job

write, finish = job.write_exit, job.RunningJob.finish

async def write_exit(*arguments):
    print(flush=True)

    while not os.path.exists({gate!r}):
        await asyncio.sleep(0.005)

    await write(*arguments)

async def told(self):
    record = await finish(self)
    print(sum(not timer.cancelled() for timer in self._timers), flush=True)
    return record

job.write_exit, job.RunningJob.finish = write_exit, told
"""


@pytest.mark.parametrize("kind", ["kill", "stop"])
def test_ordered_while_the_exit_record_waits(place: Place, kind: str) -> None:
    """A job whose record alone is missing is over: nothing is begun to end it."""
    gate = place.shared / "gate"
    change = BURIED.format(gate=str(gate))

    with KeeperProcess(place.config(), change=change, stdout=subprocess.PIPE) as keeper:
        job, other = keeper.launch("true"), keeper.launch("sleep", "300")
        assert keeper.process.stdout is not None
        keeper.process.stdout.readline()
        orders = {
            "kill": SignalJob(job.id, signal.SIGKILL, tree=True),
            "stop": StopJob(job.id, Reason.KILLED, grace=300),
        }
        keeper.send(orders[kind])
        # Orders are carried out one after the other.
        keeper.send(SignalJob(other.id, signal.SIGKILL, tree=True))
        keeper.process.stdout.readline()
        gate.touch()

        assert job.exited().reason is Reason.EXITED
        assert {keeper.process.stdout.readline() for _ in range(2)} == {b"0\n"}
