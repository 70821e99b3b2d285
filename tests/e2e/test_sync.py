"""The library for programs without an event loop."""

import gc
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Final

import pytest

import twctl
import twctl.sync
from teleworkerd.protocol.types import JobState, Stream
from tests.e2e.commandline import settings
from tests.e2e.daemon import Daemon
from tests.e2e.pki import ROOT, Certificates
from tests.e2e.waiting import wait_for
from twctl.sync import Client, JobInput, RemoteJob, RunOptions


SAME: Final = {
    Client: twctl.Client,
    RemoteJob: twctl.RemoteJob,
    JobInput: twctl.JobInput,
}


PROGRAM: Final = """
import os
import sys

import twctl

client = twctl.sync.connect()
"""


def run_program(
    daemon: Daemon, certs: Certificates, job: str, end: str
) -> tuple[int, bytes]:
    """Run a program that ends with *end*; return its code and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + end, job],
        env=settings(daemon.address, certs, certs.of("alice"), home=daemon.place.base),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=20,
    )
    return done.returncode, done.stdout


def connect(daemon: Daemon, certs: Certificates) -> Client:
    """Return a client for alice."""
    alice = certs.of("alice")
    return twctl.sync.connect(
        daemon.address, ca=certs.ca, cert=alice.cert, key=alice.key
    )


@pytest.fixture
def client(daemon: Daemon, certs: Certificates) -> Iterator[Client]:
    """A connection as alice."""
    before = threading.active_count()

    with connect(daemon, certs) as connected:
        yield connected

    assert threading.active_count() <= before


def test_run_read_and_wait(client: Client) -> None:
    """A job is started, read to its end and waited for."""
    job = client.run(["sh", "-c", "seq 1 30000; echo err >&2; exit 4"], mem=64)

    data = b"".join(chunk.data for chunk in job.output())
    status = job.wait()

    assert data == b"".join(b"%d\n" % number for number in range(1, 30_001))
    assert [chunk.data for chunk in job.output(Stream.STDERR)] == [b"err\n"]
    assert (status.exit_code, status.limits.mem) == (4, 64)
    assert job.id in {each.id for each in client.list(states=[JobState.FINISHED])}
    job.remove()


def test_input(client: Client) -> None:
    """A job is sent to, and its end."""
    job = client.run(["sha256sum"], stdin=True)

    with job.input() as stdin:
        stdin.write(b"hello")
        stdin.drain()

    assert stdin.taken == 5
    assert job.wait().exit_code == 0


def test_left_early(client: Client) -> None:
    """An iteration that is left ends its reading, and the client goes on."""
    job = client.run(["yes"])

    for chunk in job.output():
        assert chunk.data
        break

    assert job.kill()
    assert job.wait(timeout=20).exit_code == 137


def test_time_out(client: Client) -> None:
    """A wait has an end, if one is given; the job goes on."""
    job = client.run(["sleep", "300"])

    with pytest.raises(TimeoutError, match=f"{job.id} has not ended within 0.1 s"):
        job.wait(timeout=0.1)

    assert job.stop(grace=5)
    assert job.wait().state is JobState.STOPPED


def test_time_out_of_what_has_ended(client: Client) -> None:
    """Whoever does not want to wait at all sees what has ended, and what has not."""
    ended, other = client.run(["true"]), client.run(["sleep", "300"])
    status = ended.wait()

    assert ended.wait(timeout=0) == status

    with pytest.raises(TimeoutError, match=f"{other.id} has not ended within 0 s"):
        other.wait(timeout=0)

    other.kill()


@pytest.mark.filterwarnings("error")
def test_wait_that_cannot_be(daemon: Daemon, certs: Certificates) -> None:
    """An error is all that comes of it, and no warning."""
    with connect(daemon, certs) as client:
        job = client.run(["true"])

        with pytest.raises(TypeError):
            job.wait(timeout="x")  # type: ignore[arg-type]

    with pytest.raises(twctl.ConnectionClosed):
        job.wait(timeout=1)

    gc.collect()


def test_interrupt(client: Client) -> None:
    """Ctrl-C ends the wait, and nothing else."""
    job = client.run(["sleep", "300"])
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()

    with pytest.raises(KeyboardInterrupt):
        job.wait()

    timer.join()
    assert job.status().state is JobState.RUNNING
    job.kill()
    job.wait()


def test_threads(client: Client) -> None:
    """Several threads may use one client at once."""
    codes: list[int | None] = []

    def run(code: int) -> None:
        codes.append(client.run(["sh", "-c", f"exit {code}"]).wait().exit_code)

    threads = [threading.Thread(target=run, args=(code,)) for code in range(8)]

    for thread in threads:
        thread.start()

    for thread in threads:
        thread.join()

    assert sorted(codes, key=str) == list(range(8))


def test_errors(client: Client) -> None:
    """Errors are those of the library."""
    with pytest.raises(twctl.JobNotFound, match="nosuch"):
        client.job("nosuch").status()


def test_events_and_top(client: Client) -> None:
    """What comes for a while is iterated over."""
    job = client.run(["sleep", "300"])
    sample = next(iter(client.top([job.id])))
    job.kill()
    job.wait()
    states = [
        news.state
        for page in client.events(follow=False)
        for news in page.jobs
        if news.job == job.id
    ]

    assert [use.status.id for use in sample.jobs] == [job.id]
    assert states[:2] == [JobState.STARTING, JobState.RUNNING]


def test_closed(daemon: Daemon, certs: Certificates) -> None:
    """After its end nothing can be asked; to end it again is no harm."""
    client = connect(daemon, certs)

    with pytest.raises(RuntimeError, match="use 'with'"):
        client.info()

    with client:
        assert client.info().name == "alice"

    client.close()

    with pytest.raises(twctl.ConnectionClosed, match="is closed"):
        client.info()


def test_no_server(certs: Certificates) -> None:
    """Where nobody listens, `with` says so, and leaves no thread."""
    before = threading.active_count()
    alice = certs.of("alice")
    client = twctl.sync.connect(
        "127.0.0.1:1", ca=certs.ca, cert=alice.cert, key=alice.key
    )

    with pytest.raises(twctl.ConnectionClosed):
        client.__enter__()

    wait_for(lambda: threading.active_count() <= before, what="no thread")


def test_fork(client: Client) -> None:
    """A child has no client: it would wait for ever for a thread that is not there."""
    child = os.fork()

    if child == 0:
        try:
            client.info()
        except RuntimeError:
            os._exit(5)
        finally:
            os._exit(6)

    end = time.monotonic() + 20

    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0):
        assert time.monotonic() < end
        time.sleep(0.01)

    assert os.waitstatus_to_exitcode(done[1]) == 5
    assert client.info().name == "alice"


@pytest.mark.parametrize(
    "items", ["client.job(job).output()", "client.events()", "client.top([job])"]
)
def test_program_that_ends_amidst(
    client: Client, daemon: Daemon, certs: Certificates, items: str
) -> None:
    """A program ends though it has an iterator that has not, and closes nothing."""
    job = client.run(["yes"])

    end = f"client.__enter__(); job = sys.argv[1]; items = {items}; next(items)"
    done = run_program(daemon, certs, job.id, end)
    job.kill()

    assert done == (0, b"")


@pytest.mark.parametrize("leave", ["sys.exit(7)", "pass"])
def test_child_that_leaves(
    client: Client, daemon: Daemon, certs: Certificates, leave: str
) -> None:
    """A child leaves the blocks of its parent as it likes, and harms nothing there."""
    job = client.run(["cat"], stdin=True)
    end = f"""
with client, client.job(sys.argv[1]).input() as stdin:
    child = os.fork()

    if child == 0:
        {leave}
    else:
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7
        stdin.write(b"as before")

sys.exit(7)
"""
    done = run_program(daemon, certs, job.id, end)

    assert done == (7, b"")
    assert [chunk.data for chunk in job.output()] == [b"as before"]


@pytest.mark.parametrize("mine", SAME)
def test_same_names(mine: type) -> None:
    """Whatever the asynchronous library has, this one has, by the same names."""

    def names(cls: type) -> set[str]:
        return {name for name in vars(cls) if not name.startswith("_")}

    extra = {"samples", "read", "now"}  # for the command line
    assert names(SAME[mine]) - extra <= names(mine) | {"id", "not_applied"}


def test_same_options() -> None:
    """A job can be given the same."""
    parameters = inspect.signature(twctl.Client.run).parameters
    assert [*RunOptions.__annotations__] == [*parameters][2:]
