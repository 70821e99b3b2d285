"""Keepers whose jobs are private, and where such jobs can see files of a test."""

import signal
import tempfile
from pathlib import Path
from typing import Any, Final

from teleworkerd.execution import ExitRecord
from teleworkerd.keeper.orders import SignalJob
from teleworkerd.protocol.types import Stream
from teleworkerd.settings import Isolation, JobsConfig
from tests.keeper.kept import KeeperProcess, KeptJob, Place


ROOTS: Final = "operator"  # whose jobs are root's; those of others are nobody's


class VisiblePlace(Place):
    """Directories that are not in /tmp, of which each private job has its own."""

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="teleworker-keeper-", dir="/var/lib"))
        self.base.chmod(0o755)
        self.state = self.base / "state"
        self.shared = self.base / "shared"
        self.shared.mkdir()
        self.shared.chmod(0o1777)


def private(**settings: Any) -> JobsConfig:
    """Return a `[jobs]` with isolation; `operator` has root's account."""
    return JobsConfig(isolation=Isolation.PRIVATE, users={ROOTS: ("root",)}, **settings)


def shell(
    keeper: KeeperProcess, script: str, *, owner: str = "alice", **spec: Any
) -> tuple[ExitRecord, str, str]:
    """Run *script* to its end; return how it ended, its stdout and its stderr."""
    job = keeper.launch("sh", "-c", script, owner=owner, **spec)
    failure = keeper.outcome(job)
    assert failure is None, failure
    record = job.exited()
    out, err = (job.output(stream).decode() for stream in Stream)
    return record, out, err


def start(
    keeper: KeeperProcess, script: str, *, owner: str = "alice"
) -> tuple[KeptJob, int]:
    """Start *script*, and wait until it has been done; return its job and pid.

    Then it waits for its end.
    """
    job = keeper.launch("sh", "-c", f"{script}; echo up; exec sleep 300", owner=owner)
    pid = job.launched().launched.pid
    job.wait_for_output(b"up\n")
    return job, pid


def end(job: KeptJob) -> None:
    """End *job* by SIGKILL."""
    job.keeper.send(SignalJob(job.id, signal.SIGKILL, tree=True))
    job.exited()
