"""Trees in the process table, where no group can be made."""

import os
import signal
from pathlib import Path

from teleworkerd.cgroups.proctree import ProcTracker, ProcTree
from teleworkerd.cgroups.tracking import TrackedJob
from tests.cgroups.jobs import eventually, family, read_line, run_python, running


PROC = Path("/proc")

# The last process has no environment, and prints its pid; a line ends its parent.
HERMIT = """
import os, signal, sys
LAST = "import os, signal; os.write(1, b'%d\\\\n' % os.getpid()); signal.pause()"
if os.fork() == 0:
    os.setsid()
    os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", LAST], {})
signal.signal(signal.SIGUSR1, lambda *_: os._exit(0))
while True:
    signal.pause()
"""


def job_in(proc: Path, job_id: str) -> TrackedJob:
    return TrackedJob(
        ProcTree(job_id, proc=proc),
    )


def write_process(
    proc: Path,
    pid: int,
    *,
    parent: int = 1,
    name: str = "sh",
    state: str = "S",
    threads: int = 1,
    environ: bytes = b"",
) -> None:
    directory = proc / str(pid)
    directory.mkdir()
    rest = ["0"] * 15 + [str(threads), "0", "42", "0"]
    (directory / "stat").write_text(f"{pid} ({name}) {state} {parent} {' '.join(rest)}")
    (directory / "environ").write_bytes(environ)


def test_works_without_root(job_id: str) -> None:
    """The tree is found and killed by nothing but the process table."""
    job = job_in(PROC, job_id)

    with family(job, job_id=job_id) as (pids, _):
        assert pids == job.pids()


def test_hermit_is_remembered(job_id: str) -> None:
    """A child without the environment stays ours when its parent has ended."""
    job = job_in(PROC, job_id)

    with running(job, *run_python(HERMIT), job_id=job_id) as process:
        hermit = int(read_line(process))
        assert {process.pid, hermit} == job.pids()

        process.send_signal(signal.SIGUSR1)
        process.wait()

        assert {hermit} == job.pids()

        job.kill()
        eventually(lambda: job.pids() == set(), what="the hermit is dead")


def test_reused_pid_is_not_ours(tmp_path: Path) -> None:
    """A process with the pid of an ended one, but another start, is a stranger."""
    write_process(tmp_path, 10, environ=b"A=1\0TELEWORKER_JOB_ID=one\0")
    job = job_in(tmp_path, "one")
    assert {10} == job.pids()

    (tmp_path / "10" / "environ").write_bytes(b"")
    assert {10} == job.pids()

    stat = tmp_path / "10" / "stat"
    stat.write_text(stat.read_text().replace("42", "43"))

    assert set() == job.pids()


def test_name_with_brackets(tmp_path: Path) -> None:
    """A process may be called whatever it likes."""
    write_process(
        tmp_path, 10, name="a) S 1 (b", environ=b"TELEWORKER_JOB_ID=one", parent=7
    )
    write_process(tmp_path, 11, name="c) Z 9", parent=10)

    assert {10, 11} == job_in(tmp_path, "one").pids()


def test_zombie_is_not_alive(tmp_path: Path) -> None:
    """A process that has ended but is not reaped does not count."""
    write_process(tmp_path, 10, environ=b"TELEWORKER_JOB_ID=one\0")
    write_process(tmp_path, 11, parent=10, state="Z")

    assert {10} == job_in(tmp_path, "one").pids()


def test_zombie_leader_with_threads_is_alive(tmp_path: Path) -> None:
    """A process whose first thread has ended lives as long as its others."""
    write_process(tmp_path, 10, environ=b"TELEWORKER_JOB_ID=one\0")
    write_process(tmp_path, 11, parent=10, state="Z", threads=2)

    assert {10, 11} == job_in(tmp_path, "one").pids()


def test_longer_id_is_another_job(tmp_path: Path) -> None:
    """An id that begins like ours, or a variable that ends like ours, is no mark."""
    write_process(tmp_path, 10, environ=b"TELEWORKER_JOB_ID=one-2\0")
    write_process(tmp_path, 11, environ=b"MY_TELEWORKER_JOB_ID=one\0")

    assert set() == job_in(tmp_path, "one").pids()


def test_marks_of_all(tmp_path: Path) -> None:
    """One look at the table finds each job once, whoever its processes are."""
    write_process(tmp_path, 10, environ=b"TELEWORKER_JOB_ID=one\0A=1\0")
    write_process(tmp_path, 11, environ=b"A=1\0TELEWORKER_JOB_ID=two\xff")
    write_process(tmp_path, 12, environ=b"TELEWORKER_JOB_ID=one\0", parent=10)
    write_process(tmp_path, 13, environ=b"MY_TELEWORKER_JOB_ID=three\0")
    write_process(tmp_path, os.getpid(), environ=b"TELEWORKER_JOB_ID=four\0")
    (tmp_path / "14").mkdir()
    (tmp_path / "self").mkdir()

    assert ProcTracker(tmp_path).jobs() == {"one", "two\udcff"}


def test_never_ourselves(tmp_path: Path) -> None:
    """The process that looks is not of the tree, even when it bears the mark."""
    write_process(tmp_path, os.getpid(), environ=b"TELEWORKER_JOB_ID=one\0")

    assert set() == job_in(tmp_path, "one").pids()
