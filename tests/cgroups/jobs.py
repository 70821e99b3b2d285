"""Real processes in the groups of a job."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from teleworkerd.cgroups import JobCgroup
from tests.e2e.waiting import PATIENCE


DEADLINE: Final = 20.0 * PATIENCE  # seconds; what it bounds takes milliseconds

FAMILY: Final = """
import os, signal

def tell():
    os.write(1, b"%d\\n" % os.getpid())

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        tell()
        signal.pause()
    os._exit(0)

os.wait()
tell()
signal.pause()
"""


def eventually(condition: Callable[[], bool], *, what: str) -> None:
    """Return once *condition* holds; fail when it does not within the deadline."""
    end = time.monotonic() + DEADLINE

    while not condition():
        assert time.monotonic() < end, f"not within {DEADLINE} s: {what}"
        time.sleep(0.002)


def read_line(process: subprocess.Popen[bytes]) -> bytes:
    """Return the next line that *process* prints."""
    assert process.stdout is not None
    line = b""

    while not line.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], DEADLINE)
        assert ready, f"no whole line within {DEADLINE} s, only {line!r}"

        byte = os.read(process.stdout.fileno(), 1)
        assert byte, f"ended after {line!r}"
        line += byte

    return line


@contextmanager
def running(
    job: JobCgroup, *command: str, job_id: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """Run *command* in the groups of *job*; in the end, end all and remove them."""
    descriptors = job.open_procs()

    def join() -> None:
        for descriptor in descriptors:
            os.write(descriptor, b"0")

    try:
        with subprocess.Popen(
            command,
            env={**os.environ, "TELEWORKER_JOB_ID": job_id},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            preexec_fn=join,  # noqa: PLW1509 - the tests have one thread
        ) as process:
            for descriptor in descriptors:
                os.close(descriptor)

            try:
                yield process
            finally:
                end(job)
                process.kill()
    finally:
        eventually(job.remove, what="the groups of the job are gone")


def run_python(program: str, *arguments: str) -> list[str]:
    """Return the command that runs *program*."""
    return [sys.executable, "-I", "-S", "-c", program, *arguments]


@contextmanager
def family(job: JobCgroup, *, job_id: str) -> Iterator[tuple[set[int], int]]:
    """Run sh → python → a child that was forked twice and has its own session.

    Yields the pids of all three, and that of the first.
    """
    shell = '"$@"; exit 7'  # what follows keeps sh from replacing itself

    with running(
        job, "sh", "-c", shell, "sh", *run_python(FAMILY), job_id=job_id
    ) as process:
        pids = {process.pid, int(read_line(process)), int(read_line(process))}
        yield pids, process.pid


def end(job: JobCgroup) -> None:
    """Kill until nothing is left, as the contract of `kill` has it."""

    def dead() -> bool:
        job.kill()
        return not job.pids()

    eventually(dead, what="every process of the job is dead")
