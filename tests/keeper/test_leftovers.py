"""What became of a job whose keeper is gone: written down as it is known, no more."""

import errno
import os
import time
from pathlib import Path
from typing import Final

import pytest

from teleworkerd.execution import LossRecord
from teleworkerd.jobdir import JobDirectory
from teleworkerd.keeper.leftovers import BootRecord, conclude
from teleworkerd.protocol.types import LaunchStage
from tests.fakes import LAUNCHED
from tests.keeper.moving import no_room


RESTARTED: Final = LossRecord("the machine was restarted before it ended")


@pytest.fixture
def directory(tmp_path: Path) -> JobDirectory:
    """A job's directory, with its spec."""
    directory = JobDirectory(tmp_path / "job")
    directory.create()
    directory.write_spec(b"spec")
    return directory


@pytest.fixture
def boot_id(tmp_path: Path) -> Path:
    """Where the kernel says in which run of it we are."""
    path = tmp_path / "boot_id"
    path.write_text("first\n")
    return path


def ends(directory: JobDirectory) -> list[str]:
    """Return what says how the job ended."""
    names = ("exit", "failure", "loss")
    return [name for name in names if (directory.path / name).exists()]


def test_never_begun(directory: JobDirectory) -> None:
    """A job without a launch never ran: it has failed, now."""
    before = time.time_ns()

    conclude(directory, was_rebooted=False)

    record = directory.read_failure()
    assert record is not None
    assert record.failure.stage is LaunchStage.FORK
    assert record.failure.errno == errno.EAGAIN
    assert "before the command was started" in record.failure.message
    assert before <= record.failed_at <= time.time_ns()
    assert ends(directory) == ["failure"]
    assert directory.has_ended


def test_begun(directory: JobDirectory) -> None:
    """Of one whose launch had begun nobody knows whether it ran."""
    directory.begin_launch()

    conclude(directory, was_rebooted=False)

    loss = directory.read_loss()
    assert loss is not None
    assert "it may have run" in loss.why
    assert ends(directory) == ["loss"]


def test_ran(directory: JobDirectory) -> None:
    """One that ran is lost."""
    directory.begin_launch()
    directory.write_launched(LAUNCHED)

    conclude(directory, was_rebooted=False)

    loss = directory.read_loss()
    assert loss is not None
    assert "its keeper was killed" in loss.why
    assert "may have run" not in loss.why
    assert ends(directory) == ["loss"]
    assert directory.read_launched() == LAUNCHED


@pytest.mark.parametrize("size", range(0, 72, 7))
def test_torn_launch(directory: JobDirectory, size: int) -> None:
    """A launch that cannot be read is one that had begun."""
    directory.write_launched(LAUNCHED)
    data = directory.launch.read_bytes()
    assert size < len(data)
    directory.launch.write_bytes(data[:size])

    conclude(directory, was_rebooted=False)

    loss = directory.read_loss()
    assert loss is not None
    assert "it may have run" in loss.why


def test_rebooted(directory: JobDirectory) -> None:
    """After a restart of the machine nothing that is missing proves anything."""
    conclude(directory, was_rebooted=True)

    assert directory.read_loss() == RESTARTED
    assert ends(directory) == ["loss"]


def test_ran_and_rebooted(directory: JobDirectory) -> None:
    """A job that is known to have run was running then."""
    directory.write_launched(LAUNCHED)

    conclude(directory, was_rebooted=True)

    assert directory.read_loss() == RESTARTED


def test_no_room(directory: JobDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written leaves nothing; the next keeper tries again."""
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", lambda *_: no_room())

        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            conclude(directory, was_rebooted=False)

    assert [path.name for path in directory.path.iterdir()] == ["spec"]

    conclude(directory, was_rebooted=False)
    assert ends(directory) == ["failure"]


def test_same_boot(tmp_path: Path, boot_id: Path) -> None:
    """What a keeper has written is known to the next."""
    BootRecord(tmp_path, boot_id=boot_id).write()

    assert (tmp_path / "boot").read_text() == "first\n"
    assert not BootRecord(tmp_path, boot_id=boot_id).was_rebooted


def test_other_boot(tmp_path: Path, boot_id: Path) -> None:
    """It is known until it is written that we are in another run."""
    BootRecord(tmp_path, boot_id=boot_id).write()
    boot_id.write_text("second\n")

    # One that was killed before it wrote.
    assert BootRecord(tmp_path, boot_id=boot_id).was_rebooted
    boot = BootRecord(tmp_path, boot_id=boot_id)
    boot.write()

    assert boot.was_rebooted
    assert not BootRecord(tmp_path, boot_id=boot_id).was_rebooted


@pytest.mark.parametrize("data", [None, b"", b"\n", b"\xff\xfe"])
def test_no_record(tmp_path: Path, boot_id: Path, data: bytes | None) -> None:
    """A record that is gone, or says nothing, is what a power failure leaves."""
    if data is not None:
        (tmp_path / "boot").write_bytes(data)

    assert BootRecord(tmp_path, boot_id=boot_id).was_rebooted


def test_unknown_boot(tmp_path: Path, boot_id: Path) -> None:
    """A kernel that does not say in which run we are tells of no other."""
    BootRecord(tmp_path, boot_id=boot_id).write()
    boot_id.unlink()

    assert not BootRecord(tmp_path, boot_id=boot_id).was_rebooted


def test_real_boot_id(tmp_path: Path) -> None:
    """The kernel's own is used, if no other is given."""
    BootRecord(tmp_path).write()

    written = (tmp_path / "boot").read_text()
    assert written == Path("/proc/sys/kernel/random/boot_id").read_text()
