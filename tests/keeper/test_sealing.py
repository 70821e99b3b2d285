"""Digests, which come after the end, and never bring anything back."""

from dataclasses import replace
from typing import Final

from teleworkerd.execution import Postscript
from teleworkerd.keeper.orders import RemoveJob, SealJob
from tests.keeper.kept import KeeperProcess, KeptJob


DIGEST: Final = "ab" * 32


def wait_until_done(keeper: KeeperProcess) -> None:
    """Wait until the keeper has done all that it was asked for before."""
    keeper.run("true")


def sealed(keeper: KeeperProcess, job: KeptJob, postscript: Postscript) -> None:
    """Have *job* sealed."""
    keeper.send(SealJob(job.id, postscript))
    wait_until_done(keeper)


def test_seal(keeper: KeeperProcess) -> None:
    """The digests are added to the exit record; all else stays."""
    job = keeper.launch("sh", "-c", "echo x; echo y >&2; exit 3")
    record = job.exited()
    sealed(keeper, job, Postscript(stdout_sha256=DIGEST))
    first = job.directory.read_exit()
    sealed(keeper, job, Postscript(stderr_sha256="cd" * 32))

    assert first == replace(record, stdout_sha256=DIGEST)
    assert job.directory.read_exit() == replace(
        record, stdout_sha256=DIGEST, stderr_sha256="cd" * 32
    )
    assert sorted(path.name for path in job.directory.path.iterdir()) == [
        *("exit", "index", "launch", "spec", "stderr", "stdout")
    ]


def test_empty_stream_keeps_its_digest(keeper: KeeperProcess) -> None:
    """What is known already is not taken away."""
    job = keeper.launch("echo", "x")
    record = job.exited()
    sealed(keeper, job, Postscript(stdout_sha256=DIGEST))

    assert job.directory.read_exit() == replace(record, stdout_sha256=DIGEST)
    assert record.stderr_sha256 is not None


def test_removed_job(keeper: KeeperProcess) -> None:
    """A seal that comes after the removal is ignored."""
    job = keeper.launch("echo", "x")
    job.exited()
    keeper.send(RemoveJob(job.id))
    sealed(keeper, job, Postscript(stdout_sha256=DIGEST))

    assert not job.directory.path.exists()


def test_running_job(keeper: KeeperProcess) -> None:
    """Nor is a record made where there is none."""
    job = keeper.launch("sleep", "300")
    job.launched()
    sealed(keeper, job, Postscript(stdout_sha256=DIGEST))

    assert not job.directory.exit.exists()


def test_broken_record(keeper: KeeperProcess) -> None:
    """A record that cannot be read stays as it is."""
    job = keeper.launch("true")
    job.exited()
    job.directory.exit.write_bytes(b"{")
    sealed(keeper, job, Postscript(stdout_sha256=DIGEST))

    assert job.directory.exit.read_bytes() == b"{"
