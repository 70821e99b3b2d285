"""`twctl` as a process: signals, closed pipes, and what it imports."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import twctl
from teleworkerd.protocol.messages import KillRequest
from teleworkerd.protocol.types import JobState, Stream
from tests.e2e.waiting import wait_for
from tests.twctl.fake import FakeServer
from tests.twctl.fake_output import JOB_ID, FakeJob, make_status


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(40),
    pytest.mark.usefixtures("environment"),
]

TWCTL = (sys.executable, "-m", "twctl")
RUNNING = make_status(state=JobState.RUNNING, exit_code=None)
OURS = 58  # modules of ours that a call which asks once imports at most
OTHERS = 12  # and of others', beside what it cannot do without
PROBE = """\
import sys
from twctl.cli import main
code = main(sys.argv[1:])
print(*sorted(sys.modules), file=sys.stderr)
raise SystemExit(code)
"""


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start `twctl`; it is gone afterwards."""
    process = subprocess.Popen(
        [*TWCTL, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )

    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def read(process: subprocess.Popen[bytes], size: int) -> bytes:
    """Return *size* bytes of stdout as soon as they are there."""
    assert process.stdout is not None
    return process.stdout.read(size)


def kills(server: FakeServer) -> list[int]:
    """Return the signals that the server was asked to send."""
    return [r.signal for r in server.asked if isinstance(r, KillRequest)]


def wait_for_kills(server: FakeServer, count: int) -> None:
    """Return when *count* signals have come through."""
    wait_for(lambda: len(kills(server)) == count, what="a signal")


@pytest.fixture(scope="module")
def needed() -> set[str]:
    """What is imported by those packages that nothing can be asked without."""
    code = "import sys, typer, ssl, msgpack; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return set(done.stdout.decode().split())


@pytest.fixture
def job(server: FakeServer) -> FakeJob:
    """A job that has written a line and goes on."""
    server.jobs[JOB_ID] = FakeJob(RUNNING, {Stream.STDOUT: b"up\n"})
    return server.jobs[JOB_ID]


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "true"],
        ["run", "-o", "json", "true"],
        ["status", JOB_ID],
        ["list"],
        ["kill", JOB_ID],
        ["stop", JOB_ID],
        ["rm", JOB_ID],
        ["info"],
        ["--help"],
    ],
    ids=" ".join,
)
def test_light_verbs(job: FakeJob, arguments: list[str], needed: set[str]) -> None:
    """What asks once imports no event loop and nothing for pretty printing."""
    job.status = make_status()

    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], capture_output=True, check=True
    )

    modules = set(done.stderr.decode().splitlines()[-1].split())
    heavy = {"asyncio", "uvloop", "rich", "tomllib", "logging", "pydantic"}
    assert "twctl.cli" in modules
    assert not heavy & modules
    ours = {module for module in modules if module.startswith(("twctl", "telew"))}
    assert len(ours) <= OURS
    assert len(modules - ours - needed) <= OTHERS, sorted(modules - ours - needed)


def test_importing_the_library_is_free() -> None:
    """`import twctl` alone loads neither asyncio nor the protocol."""
    code = "import sys, twctl; print('asyncio' in sys.modules, len(twctl.__all__) > 9)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

    assert done.stdout == b"False True\n"


def test_public_names() -> None:
    """The names are sorted, and each is there."""
    assert sorted(twctl.__all__) == twctl.__all__
    assert all(hasattr(twctl, name) for name in twctl.__all__)
    assert set(twctl.__all__) <= set(dir(twctl))
    assert not hasattr(twctl, "nothing")


def test_interrupted_tail(server: FakeServer, job: FakeJob) -> None:
    """Ctrl-C ends `tail -f` quietly with 130 and does nothing to the job."""
    with started("tail", "-f", JOB_ID) as process:
        assert read(process, 3) == b"up\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)

    assert (process.returncode, err) == (130, b"")
    assert kills(server) == []


def test_interrupted_wait(server: FakeServer, job: FakeJob) -> None:
    """Ctrl-C ends `wait` the same way."""
    with started("wait", JOB_ID) as process:
        wait_for(lambda: bool(server.asked), what="the request")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)

    assert (process.returncode, err) == (130, b"")


def test_interrupted_tail_whose_reader_sleeps(server: FakeServer, job: FakeJob) -> None:
    """Ctrl-C works although nobody takes what is to be written."""
    job.output[Stream.STDOUT] = bytes(4 << 20)

    with started("tail", "-f", JOB_ID) as process:
        assert process.stdout is not None
        select.select([process.stdout], [], [], 10)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


def test_forwarded_signals(server: FakeServer, job: FakeJob) -> None:
    """`run -f` sends on the signals it gets, and a second INT at once kills."""
    with started("run", "-f", "cat") as process:
        assert read(process, 3) == b"up\n"

        for count, number in enumerate((1, 3, 10, 12, 15, 2, 2), 1):
            process.send_signal(number)
            wait_for_kills(server, count)

        job.status = make_status(exit_code=137, state=JobState.STOPPED)
        server.wake()
        _, err = process.communicate(timeout=10)

    assert kills(server) == [1, 3, 10, 12, 15, 2, 9]
    to_all = [r.signal for r in server.asked if isinstance(r, KillRequest) and r.tree]
    assert to_all == [3, 2]
    assert err == b"twctl: SIGINT goes to the job; again within 1 s kills it\n"
    assert process.returncode == 137


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_without_a_connection(
    server: FakeServer, job: FakeJob, number: signal.Signals
) -> None:
    """When the job cannot be reached, a signal leaves it alone and ends twctl."""
    with started("run", "-f", "cat") as process:
        assert read(process, 3) == b"up\n"
        server.cuts = [0] * 1000
        server.drop()
        assert process.stderr is not None
        assert b"connecting again" in process.stderr.readline()
        process.send_signal(number)
        _, err = process.communicate(timeout=10)

    assert process.returncode == 128 + number
    assert err == f"twctl: there is no connection; job {JOB_ID} goes on\n".encode()
    assert kills(server) == []


@pytest.mark.parametrize(
    "arguments",
    [["tail", "-f", JOB_ID], ["run", "-f", "true"]],
    ids=["tail", "run"],
)
def test_closed_stdout(server: FakeServer, job: FakeJob, arguments: list[str]) -> None:
    """When the reader goes, `twctl` does, quietly, even while nothing is written."""
    with started(*arguments) as process:
        assert read(process, 3) == b"up\n"
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(10) == 141
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    "arguments",
    [["status", JOB_ID], ["status", "-o", "json", JOB_ID], ["info"], ["--help"]],
    ids=" ".join,
)
def test_nobody_reads(job: FakeJob, arguments: list[str]) -> None:
    """A closed stdout is 141 for what prints at once, too."""
    with started(*arguments) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(10) == 141
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    "verb", ["status -o json", "tail", "tail -f", "run -f"], ids=str
)
def test_full_disk(job: FakeJob, verb: str) -> None:
    """What cannot be written is a failure in one line."""
    job.status = make_status()

    done = subprocess.run(
        f"{sys.executable} -m twctl {verb} {JOB_ID} >/dev/full",
        shell=True,
        capture_output=True,
        check=False,
    )

    assert done.returncode == 125
    assert done.stderr == (
        b"twctl: error: the output cannot be written: No space left on device\n"
    )


@pytest.mark.parametrize("most", [7, 9, 11, 14])
def test_no_descriptors(job: FakeJob, most: int) -> None:
    """A lack of descriptors is called that, in one line, and nothing comes after it."""
    job.status = make_status()

    done = subprocess.run(
        f"ulimit -n {most}; exec {sys.executable} -m twctl tail -f {JOB_ID}",
        shell=True,
        capture_output=True,
        check=False,
    )

    assert done.returncode == 125
    assert re.fullmatch(
        rb"twctl: error: [^\n]*Too many open files[^\n]*raise the limit[^\n]*\n",
        done.stderr,
    ), done.stderr


def test_no_stdout_at_all(job: FakeJob) -> None:
    """Without a descriptor 1 nothing is printed, and nothing else breaks."""
    done = subprocess.run(
        f"{sys.executable} -m twctl status {JOB_ID} >&-",
        shell=True,
        capture_output=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (141, b"")


def test_much_output_to_a_slow_reader(server: FakeServer, job: FakeJob) -> None:
    """A reader who takes his time gets all of it."""
    data = os.urandom(3 << 20)
    job.status, job.output = make_status(), {Stream.STDOUT: data}

    with started("tail", "-f", JOB_ID) as process:
        received = bytearray()

        while piece := read(process, 300_000):
            received += piece
            time.sleep(0.005)  # a reader who takes his time

    assert received == data


def test_restart_of_the_server(server: FakeServer, job: FakeJob) -> None:
    """An outage costs one line on stderr and not a byte of stdout."""
    with started("tail", "-f", "--exit-code", JOB_ID) as process:
        assert read(process, 3) == b"up\n"
        job.output[Stream.STDOUT] = b"up\nand down\n"
        job.status = make_status(exit_code=4)
        server.drop()
        out, err = process.communicate(timeout=20)

    assert (process.returncode, out) == (4, b"and down\n")
    assert err.count(b"\n") == 1
    assert err.startswith(b"twctl: 127.0.0.1:")


def test_start_that_is_not_answered(server: FakeServer, job: FakeJob) -> None:
    """While the server does not even say that the job runs, two INTs are enough."""
    server.is_deaf = True

    with started("run", "-f", "cat") as process:
        wait_for(lambda: bool(server.asked), what="the request")
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert b"SIGINT goes to the job" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)

    assert process.returncode == 130
    assert b"has not answered; what has started goes on" in err


def test_run_whose_id_cannot_be_printed(server: FakeServer) -> None:
    """A job that was started is not lost for want of room for its ID."""
    done = subprocess.run(
        f"{sys.executable} -m twctl run true >/dev/full",
        shell=True,
        capture_output=True,
        check=False,
        timeout=20,
    )

    job, error = done.stderr.decode().splitlines()
    assert re.fullmatch(r"twctl: job [0-9a-f-]{36} was started", job)
    assert error.startswith("twctl: error: the output cannot be written: No space")
    assert done.returncode == 125
