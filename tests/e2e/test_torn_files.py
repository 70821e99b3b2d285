"""Files of jobs that a power failure has cut off anywhere: nothing is invented."""

import asyncio
import hashlib
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Final

import pytest

import twctl
from teleworkerd.execution import (
    ExitRecord,
    FailureRecord,
    JobIdentity,
    Launched,
    LossRecord,
)
from teleworkerd.jobdir import JobDirectory
from teleworkerd.keeper.leftovers import BootRecord
from teleworkerd.keeper.orders import Launch
from teleworkerd.output.index import RECORD
from teleworkerd.protocol.codec import dump_record
from teleworkerd.protocol.spec import JobSpec, Limits
from teleworkerd.protocol.status import JobStatus, LaunchFailure
from teleworkerd.protocol.types import JobState, LaunchStage, Reason, Stream
from tests.e2e.commandline import Twctl
from tests.e2e.daemon import Daemon, Place
from tests.e2e.failpoints import ask, end_orphans
from tests.e2e.pki import Certificates
from tests.output.written import Written


pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

BEGIN: Final = time.time_ns()  # what is old would be removed

LINES: Final = [b"line %d\n" % number for number in range(8)]
STDOUT: Final = b"".join(LINES[0::2])
STDERR: Final = b"".join(LINES[1::2])

LAUNCHED: Final = Launched(1 << 22, BEGIN + 2, "nobody", Limits())
EXIT: Final = ExitRecord(
    LAUNCHED,
    BEGIN + 9,
    Reason.EXITED,
    exit_code=7,
    stdout=len(STDOUT),
    stderr=len(STDERR),
    stdout_sha256=hashlib.sha256(STDOUT).hexdigest(),
    stderr_sha256=hashlib.sha256(STDERR).hexdigest(),
)
FAILURE: Final = FailureRecord(
    LaunchFailure(LaunchStage.EXEC, 2, "cannot run 'x'"), BEGIN + 3
)
LOSS: Final = LossRecord("its keeper was killed")

STRIDE: Final = 23  # bytes between two cuts of a record

End = Callable[[JobDirectory], None]


def exited(directory: JobDirectory) -> None:
    """Let the job have ended by itself."""
    directory.write_launched(LAUNCHED)
    directory.write_exit(EXIT)


def unsealed(directory: JobDirectory) -> None:
    """Let it have ended, with digests that nobody has computed."""
    directory.write_launched(LAUNCHED)
    directory.write_exit(replace(EXIT, stdout_sha256=None, stderr_sha256=None))


def running(directory: JobDirectory) -> None:
    """Let it have been running."""
    directory.write_launched(LAUNCHED)


def failed(directory: JobDirectory) -> None:
    """Let it have failed to start."""
    directory.write_failure(FAILURE)


def lost(directory: JobDirectory) -> None:
    """Let it have been found lost before."""
    directory.write_launched(LAUNCHED)
    directory.write_loss(LOSS)


@dataclass(frozen=True, slots=True)
class Case:
    """A job whose *file* has only *size* bytes left, of so many, and perhaps zeros."""

    id: str
    end: End
    file: str | None
    size: int
    whole: int
    is_blank: bool


class Yard:
    """Directories of jobs that no daemon has ever known."""

    def __init__(self, place: Place) -> None:
        self._jobs = place.state / "jobs"
        self._jobs.mkdir(parents=True, mode=0o700)
        BootRecord(place.state).write()  # it was in this run of the kernel
        self.cases: list[Case] = []

    def fill(self) -> None:
        """Make all the cases."""
        for end in (exited, unsealed, running, failed, lost):
            self._make(end)

        for end, file in (
            (exited, "exit"),
            (unsealed, "exit"),
            (running, "launch"),
            (exited, "launch"),
            (exited, "spec"),
            (failed, "failure"),
            (lost, "loss"),
        ):
            for missing in range(1, 1 << 12, STRIDE):
                if not self._make(end, file, missing):
                    break

            self._make(end, file, 1 << 12)
            self._make(end, file, 1 << 12, is_blank=True)
            self._make(end, file, 9, is_blank=True)

        self._fill_streams()

    def _fill_streams(self) -> None:
        for end in (exited, running):
            for missing in range(1, 2 * RECORD.size + 1):
                self._make(end, "index", missing)

            for missing in (1, RECORD.size, 3 * RECORD.size + 5, 8 * RECORD.size):
                self._make(end, "index", missing, is_blank=True)

        for end in (exited, unsealed):
            for missing in (1, 9, len(STDOUT)):
                self._make(end, "stdout", missing)

    def _make(
        self,
        end: End,
        file: str | None = None,
        missing: int = 0,
        *,
        is_blank: bool = False,
    ) -> bool:
        """Write a job, without the last bytes of *file*; return if any are left.

        *is_blank*: there are zeros in their place.
        """
        job_id = str(uuid.uuid4())
        identity = JobIdentity(job_id, "alice", job_id, BEGIN + 1)
        order = Launch(identity, JobSpec((b"x",), labels={"case": job_id[:8]}))
        written = Written(self._jobs / job_id)
        written.directory.write_spec(dump_record(order))

        if end is not failed:
            for number, line in enumerate(LINES):
                written.write(line, tuple(Stream)[number % 2])
                written.record(BEGIN + 300 + number)

        end(written.directory)
        whole = size = 0

        if file is not None:
            path = written.directory.path / file
            whole = path.stat().st_size
            size = max(whole - missing, 0)
            blank = bytes(whole - size) if is_blank else b""
            path.write_bytes(path.read_bytes()[:size] + blank)

        self.cases.append(Case(job_id, end, file, size, whole, is_blank))
        return size > 0


@dataclass(frozen=True, slots=True)
class Told:
    """What the daemon says of a job, and what it has of its output."""

    status: JobStatus
    stdout: bytes
    stderr: bytes
    interleaved: bytes
    gaps: tuple[twctl.Gap, ...]
    is_right: bool  # by its digests


@dataclass(frozen=True, slots=True)
class Recovered:
    """A daemon that has found all of it, and what it told."""

    daemon: Daemon
    cases: list[Case]
    told: dict[str, Told]

    def of(self, end: End, file: str | None) -> Iterator[tuple[Case, Told]]:
        """Yield the cases of that kind that are known."""
        found = [case for case in self.cases if (case.end, case.file) == (end, file)]
        assert found

        for case in found:
            yield case, self.told[case.id]


async def look(client: twctl.Client) -> dict[str, Told]:
    """Read everything; nothing of it takes long."""
    async with asyncio.timeout(30):
        return {
            status.id: await look_at(client, status.id)
            for status in await client.list()
        }


async def look_at(client: twctl.Client, job_id: str) -> Told:
    """Read one job."""
    job = client.job(job_id)
    gaps: list[twctl.Gap] = []
    streams = dict.fromkeys(Stream, b"")
    interleaved = b""
    is_right = True
    status = await job.wait()

    for stream in Stream:
        try:
            async for chunk in job.output(stream, on_gap=gaps.append):
                streams[stream] += chunk.data
        except twctl.DigestMismatch:
            is_right = False

    with suppress(twctl.DigestMismatch):
        async for chunk in job.interleaved(on_gap=lambda _: None):
            interleaved += chunk.data

    return Told(
        status,
        streams[Stream.STDOUT],
        streams[Stream.STDERR],
        interleaved,
        tuple(gaps),
        is_right,
    )


@pytest.fixture(scope="module")
def recovered(certs: Certificates) -> Iterator[Recovered]:
    """A daemon in the yard."""
    with ExitStack() as stack:
        place = Place()
        stack.callback(place.remove)
        stack.callback(end_orphans, place)
        yard = Yard(place)
        yard.fill()
        daemon = stack.enter_context(Daemon(place, certs))
        yield Recovered(daemon, yard.cases, ask(daemon, look))


def check_exited(told: Told) -> None:
    """Check that all is known of a job that had ended."""
    status = told.status
    assert (status.state, status.exit_code) == (JobState.FINISHED, 7)
    assert (status.started_at, status.ended_at) == (BEGIN + 2, BEGIN + 9)
    assert status.stdout.sha256 == hashlib.sha256(STDOUT).digest()
    assert status.durable is True
    check_output(told)


def check_lost(told: Told, why: str) -> None:
    """Check that nothing is said of the end of a job that nobody knows."""
    status = told.status
    assert status.state is JobState.LOST
    assert why in (status.lost or "")
    assert status.exit_code is status.signal is status.ended_at is None
    assert status.stdout.sha256 is None


def check_output(told: Told) -> None:
    """Check that all of it is there."""
    found = (told.stdout, told.stderr, told.gaps, told.is_right)
    assert found == (STDOUT, STDERR, (), True)


def test_none_is_invented(recovered: Recovered) -> None:
    """The jobs are those whose spec can be read; of each other one it is said."""
    unknown = {case.id for case in recovered.cases if case.file == "spec"}
    known = {case.id for case in recovered.cases} - unknown

    assert recovered.told.keys() == known
    lines = recovered.daemon.log_lines("ERROR.*nobody knows whose job")
    assert all(any(job in line for line in lines) for job in unknown)
    [line] = recovered.daemon.log_lines("not in the database: found again")
    assert f" {len(known)} jobs" in line
    assert recovered.daemon.log_lines("Traceback") == []


def test_whole(recovered: Recovered) -> None:
    """Those that nothing happened to are all there."""
    for end in (exited, unsealed):
        [(_, told)] = recovered.of(end, None)
        check_exited(told)
        assert told.interleaved == b"".join(LINES)

    [(_, told)] = recovered.of(running, None)
    check_lost(told, "its keeper was killed")
    check_output(told)
    assert told.interleaved == b"".join(LINES)

    [(_, told)] = recovered.of(failed, None)
    assert told.status.state is JobState.FAILED
    assert told.status.error == FAILURE.failure
    assert told.status.ended_at == FAILURE.failed_at

    [(_, told)] = recovered.of(lost, None)
    check_lost(told, LOSS.why)
    check_output(told)


def test_index(recovered: Recovered) -> None:
    """Only order and times of what it does not say any more are missing."""
    for end in (exited, running):
        for case, told in recovered.of(end, "index"):
            check_output(told)
            assert sorted(told.interleaved) == sorted(STDOUT + STDERR)

            # What is not recorded comes last; with zeros the order may be lost.
            kept = LINES[: 0 if case.is_blank else case.size // RECORD.size]
            assert told.interleaved.startswith(b"".join(kept))

    for _, told in recovered.of(exited, "index"):
        check_exited(told)


@pytest.mark.parametrize("end", [exited, unsealed])
def test_exit(recovered: Recovered, end: End) -> None:
    """Without the exit record nobody knows the end."""
    for _, told in recovered.of(end, "exit"):
        check_lost(told, "its directory does not say what became of it")
        assert told.status.started_at == LAUNCHED.started_at
        check_output(told)


def test_launch(recovered: Recovered) -> None:
    """The launch is missed only where there is no exit record."""
    for _, told in recovered.of(exited, "launch"):
        check_exited(told)

    for _, told in recovered.of(running, "launch"):
        check_lost(told, "it may have run")
        assert told.status.started_at is told.status.pid is None
        check_output(told)


def test_failure(recovered: Recovered) -> None:
    """Why it failed to start, or that it did, is not guessed."""
    for _, told in recovered.of(failed, "failure"):
        check_lost(told, "its directory does not say what became of it")
        assert told.status.error is None


def test_loss(recovered: Recovered) -> None:
    """A job is lost without the record of it, too."""
    for _, told in recovered.of(lost, "loss"):
        check_lost(told, "its directory does not say what became of it")
        check_output(told)


@pytest.mark.parametrize("end", [exited, unsealed])
def test_short_spool(recovered: Recovered, certs: Certificates, end: End) -> None:
    """What is missing at the end of a stream is told, and never filled in."""
    alice = Twctl(recovered.daemon, certs.of("alice"))

    for case, told in recovered.of(end, "stdout"):
        gap = twctl.Gap(Stream.STDOUT, case.size, case.whole)
        assert (told.status.state, told.status.exit_code) == (JobState.FINISHED, 7)
        assert (told.stdout, told.gaps) == (STDOUT[: case.size], (gap,))
        assert told.stderr == STDERR
        assert told.status.stdout.dropped == case.whole - case.size
        # A digest from before says more; one of what is left cannot.
        assert told.is_right is (end is unsealed)

    done = alice("tail", "-f", case.id)
    assert done.stdout == STDOUT[: case.size]
    assert f"{case.whole - case.size} bytes of stdout" in done.stderr
    assert done.code == (125 if end is exited else 0)
