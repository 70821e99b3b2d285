"""What it takes until the files of a job are on the disk."""

import errno
import os
from pathlib import Path

import pytest

from teleworkerd.output.sync import SyncFailed, sync
from tests.output.disk import Disk, all_of, failing


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A disk that is in order until the test wants it otherwise."""
    disk = Disk()
    monkeypatch.setattr(os, "fdatasync", disk)
    return disk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The directory of a job, with two files."""
    path = tmp_path / "job"
    path.mkdir()

    for name in ("stdout", "exit"):
        (path / name).write_bytes(b"x")

    return path


def test_everything(path: Path, disk: Disk) -> None:
    """All files count, the directory with their names, and the one above."""
    sync(path)

    assert sorted(disk.synced) == all_of(path)


def test_files_first(path: Path, disk: Disk) -> None:
    """A name is not on the disk before what it stands for."""
    sync(path)

    assert disk.synced[-2:] == [str(path), str(path.parent)]


def test_files_only(path: Path, disk: Disk) -> None:
    """What is no file of the job is left alone, and not waited for."""
    (path / "link").symlink_to("/etc/passwd")
    (path / "below").mkdir()
    os.mkfifo(path / "fifo")

    sync(path)

    assert sorted(disk.synced) == all_of(path)


def test_empty_files(path: Path, disk: Disk) -> None:
    """Of a file without bytes there is no more than its name."""
    (path / "stderr").touch()

    sync(path)

    assert str(path / "stderr") not in disk.synced
    assert sorted(disk.synced) == sorted({*all_of(path)} - {str(path / "stderr")})


def test_gone(path: Path, disk: Disk) -> None:
    """A directory that was removed needs nothing."""
    sync(path / "missing")

    assert disk.synced == []


def test_gone_meanwhile(
    path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a file that was renamed since the directory was read."""
    work = os.open

    def late(file: str, flags: int) -> int:
        (path / "exit").unlink(missing_ok=True)
        return work(file, flags)

    monkeypatch.setattr(os, "open", late)
    sync(path)

    assert sorted(disk.synced) == [str(path.parent), str(path), str(path / "stdout")]


@pytest.mark.parametrize(
    "number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM]
)
@pytest.mark.parametrize("place", range(4))
def test_refused(path: Path, disk: Disk, number: int, place: int) -> None:
    """Whatever is not taken, for whatever reason: what is there, nobody knows."""
    disk.errors = [0] * place + [number]

    with pytest.raises(SyncFailed) as failed:
        sync(path)

    assert failed.value.errno == number
    assert failed.value.filename == disk.synced[-1]
    assert len(disk.synced) == place + 1


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ELOOP])
@pytest.mark.parametrize("call", ["open", "scandir"])
def test_unreadable(
    path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """What cannot even be opened is not known to be there either."""
    monkeypatch.setattr(os, call, failing(number))

    with pytest.raises(SyncFailed) as failed:
        sync(path)

    assert failed.value.errno == number
    assert disk.synced == []


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
@pytest.mark.parametrize("call", ["open", "scandir"])
def test_no_means(
    path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """That we lack a descriptor says nothing of the disk."""
    monkeypatch.setattr(os, call, failing(number))

    with pytest.raises(OSError, match=os.strerror(number)) as lacking:
        sync(path)

    assert not isinstance(lacking.value, SyncFailed)
    assert lacking.value.errno == number
