"""Limits on output, as a keeper's server and its jobs see them."""

import signal
from typing import Final

import pytest

from teleworkerd.keeper.messages import JobFailed, OutputDropped, OutputGrown
from teleworkerd.keeper.orders import RemoveJob, StopJob
from teleworkerd.output.gaps import read_gaps
from teleworkerd.protocol.types import Gap, OnFull, Reason, Stream
from tests.keeper.kept import (
    KeeperProcess,
    Place,
    is_alive,
    with_output,
)
from tests.keeper.kept import (
    KeptJob as Job,
)


EMPTY: Final = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
LIMIT: Final = 1 << 20


def gaps_of(job: Job, stream: Stream = Stream.STDOUT) -> list[tuple[int, int]]:
    """Return the gaps that the job's file has."""
    gaps = read_gaps(job.directory.gaps)
    return [(gap.offset, gap.stop) for gap in gaps if gap.stream is stream]


def writes(count: int, then: str = "") -> tuple[str, str, str]:
    """Return a command that writes *count* bytes."""
    return "sh", "-c", f"head -c {count} /dev/zero; {then}"


def test_drop(place: Place) -> None:
    """A job that may drop goes on, and the record says how much is missing."""
    with KeeperProcess(with_output(place.config(), job_limit=LIMIT)) as keeper:
        job = keeper.launch(*writes(5 * LIMIT, "echo end >&2"), on_full=OnFull.DROP)
        record = job.exited()
        dropped = keeper.told(OutputDropped)
        grown = keeper.told(OutputGrown)

    kept = job.output() + job.output(Stream.STDERR)
    missing = record.stdout_dropped + record.stderr_dropped

    assert (record.stdout, record.stderr, record.exit_code) == (5 * LIMIT, 4, 0)
    assert missing == 4 * LIMIT + 4
    assert len(kept) == LIMIT
    assert record.stderr_sha256 == (EMPTY if record.stderr_dropped == 4 else None)
    assert gaps_of(job) == [(LIMIT - len(job.output(Stream.STDERR)), 5 * LIMIT)]
    assert sum(drop.stop - drop.offset for drop in dropped) == missing
    assert (grown[-1].stdout, grown[-1].stderr) == (record.stdout, record.stderr)


def test_kill(place: Place) -> None:
    """A job that is to be killed at its limit is, with all its tree, and says why."""
    with KeeperProcess(place.config()) as keeper:
        job = keeper.launch(
            "sh",
            "-c",
            "setsid sleep 300 & echo $!; yes",
            on_full=OnFull.KILL,
            output_limit=LIMIT,
        )
        record = job.exited()
        child = int(job.output(Stream.STDOUT).split(maxsplit=1)[0])
        log = keeper.close()

    kept = record.stdout + record.stderr - record.stdout_dropped - record.stderr_dropped

    assert (record.reason, record.exit_code) == (Reason.OUTPUT, 137)
    assert record.signal == signal.SIGKILL
    assert kept == LIMIT
    assert record.stdout_dropped == sum(stop - offset for offset, stop in gaps_of(job))
    assert not is_alive(child)
    assert "to be killed: the job's output limit of 1 MiB is reached" in log


def test_kill_of_one_that_has_ended(keeper: KeeperProcess) -> None:
    """Whoever wrote too much and ended at once is told of in the same way."""
    record, text = keeper.run("echo", "ab", on_full=OnFull.KILL, output_limit=2)

    assert (record.reason, text) == (Reason.OUTPUT, b"ab")
    assert (record.stdout, record.stdout_dropped) == (3, 1)


def test_kill_comes_too_late(keeper: KeeperProcess) -> None:
    """A job that somebody else has ended before stays ended by that."""
    job = keeper.launch(
        "sh",
        "-c",
        "trap 'echo too much; exit 3' TERM; echo up; while :; do sleep 0.02; done",
        on_full=OnFull.KILL,
        output_limit=5,
    )
    job.launched()
    job.wait_for_output(b"up\n")
    keeper.send(StopJob(job.id, Reason.KILLED, grace=60))

    assert job.exited().reason is Reason.KILLED


def test_limit_that_is_too_high(place: Place) -> None:
    """A job that asks for more than the server allows is refused, with the name."""
    with KeeperProcess(with_output(place.config(), job_limit=LIMIT)) as keeper:
        job = keeper.launch("true", output_limit=LIMIT + 1)
        failed = keeper.expect(JobFailed)

        assert failed.limit == "output_limit"
        assert "1048577 bytes is more than the 1 MiB" in failed.failure.message
        found = job.directory.read_failure()
        assert found is not None
        assert found.failure == failed.failure


def test_count_of_an_earlier_keeper(place: Place) -> None:
    """What is there already counts: of ended, lost, dropped and unreadable jobs."""
    with KeeperProcess(with_output(place.config(), job_limit=100)) as keeper:
        ended = keeper.launch(*writes(60))
        dropped = keeper.launch(*writes(500), on_full=OnFull.DROP, output_limit=30)
        other = keeper.launch(*writes(100), owner="bob")
        broken = keeper.launch(*writes(100))

        for job in (ended, dropped, other, broken):
            job.exited()

    broken.directory.spec.write_bytes(b"\xc1")
    ended.directory.exit.unlink()
    (place.state / "jobs" / "lost+found").mkdir()
    config = with_output(place.config(), owner_limit=100, total_limit=300)

    with KeeperProcess(config) as keeper:
        alice = keeper.launch(*writes(20, "sleep 300"))
        alice.launched()
        assert "alice's 100 bytes" in str(alice.held_up())
        assert len(alice.output()) == 10

        carol = keeper.launch(*writes(20, "sleep 300"), owner="carol")
        carol.launched()
        assert "the server's 300 bytes" in str(carol.held_up())
        assert carol.output() == b""

        keeper.send(RemoveJob(broken.id))
        assert carol.held_up() is None
        carol.wait_for_output(bytes(20))
        assert len(alice.output()) == 10


def test_merge(keeper: KeeperProcess) -> None:
    """Merged, both streams are one pipe: their order is that of the writes."""
    lines = "".join(f"echo o{n}; echo e{n} >&2; " for n in range(200))
    job = keeper.launch("sh", "-c", lines, merge=True)
    record = job.exited()
    wanted = b"".join(b"o%d\ne%d\n" % (n, n) for n in range(200))

    assert job.output() == wanted
    assert (record.stdout, record.stderr) == (len(wanted), 0)
    assert job.output(Stream.STDERR) == b""
    assert record.stderr_sha256 == EMPTY


@pytest.mark.parametrize("stream", ["/dev/stderr", "/proc/self/fd/2"])
def test_merged_stderr_can_be_opened(keeper: KeeperProcess, stream: str) -> None:
    """A merged stderr is a pipe of the job's account like any other."""
    record, text = keeper.run("sh", "-c", f"echo x > {stream}", merge=True)

    assert (record.exit_code, text) == (0, b"x\n")


def test_digest_of_nothing(keeper: KeeperProcess) -> None:
    """An empty stream has its digest at once; the others get theirs later."""
    record, _ = keeper.run("echo", "x")

    assert (record.stdout_sha256, record.stderr_sha256) == (None, EMPTY)


def test_many_at_one_limit(place: Place) -> None:
    """Jobs that run at the same time share a limit to the byte."""
    config = with_output(place.config(), owner_limit=LIMIT, on_full=OnFull.DROP)

    with KeeperProcess(config) as keeper:
        jobs = [keeper.launch(*writes(LIMIT // 3)) for _ in range(6)]
        records = [job.exited() for job in jobs]

    kept = [record.stdout - record.stdout_dropped for record in records]

    assert sum(kept) == LIMIT
    assert {record.stdout for record in records} == {LIMIT // 3}
    assert [
        sum(gap.stop - gap.offset for gap in read_gaps(job.directory.gaps))
        for job in jobs
    ] == [record.stdout_dropped for record in records]


def test_keeper_that_is_killed(place: Place) -> None:
    """After a crash in the midst of dropping, no hole is without its record."""
    change = """
import os, signal
splice, calls = os.splice, []
def crash(source, target, count, **options):
    moved = splice(source, target, count, **options)
    if not options:
        calls.append(moved)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    return moved
os.splice = crash
"""
    config = with_output(place.config(), job_limit=1000, on_full=OnFull.DROP)
    keeper = KeeperProcess(config, change=change)
    job = keeper.launch("sh", "-c", "while :; do head -c 700 /dev/zero; done")
    keeper.process.wait(20)
    keeper.close()

    (gap,) = read_gaps(job.directory.gaps)

    assert len(job.output()) == 1000 == gap.offset
    assert gap == Gap(Stream.STDOUT, 1000, gap.stop)

    with KeeperProcess(with_output(place.config(), owner_limit=1001)) as second:
        record, _ = second.run("echo", "x", on_full=OnFull.DROP)

    assert record.stdout_dropped == 1
