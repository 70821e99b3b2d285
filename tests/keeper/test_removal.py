"""The removal of jobs: out of sight at once, gone without holding anybody up."""

import asyncio
import os
import shutil
import uuid
from pathlib import Path
from typing import Final

import pytest

from teleworkerd.execution import Postscript
from teleworkerd.keeper.messages import JobGone
from teleworkerd.keeper.orders import RemoveJob, SealJob, SignalJob
from teleworkerd.keeper.removal import Trash
from tests.keeper.kept import KeeperProcess, Place, eventually
from tests.keeper.moving import until


MIB: Final = 1 << 20
UNKNOWN: Final = "5e3f1c1a-8a57-4b2e-9d43-0c6f7a1b2d3e"


def big_job(jobs: Path, *, size: int) -> Path:
    """Make a job's directory with a spool of *size* bytes; return where."""
    path = jobs / str(uuid.uuid4())
    path.mkdir(parents=True)
    (path / "spec").write_bytes(b"")

    with (path / "stdout").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)

    return path


def test_removal(keeper: KeeperProcess) -> None:
    """A job that has ended can be removed, and then there is nothing left of it."""
    job = keeper.launch("echo", "x")
    job.exited()

    assert job.remove() is None
    assert not job.directory.path.exists()

    trash = keeper.config.state_dir / "trash"
    eventually(lambda: not list(trash.iterdir()), what="empty trash")

    assert job.remove() is None


def test_running_job(keeper: KeeperProcess) -> None:
    """A job that has not ended cannot be removed."""
    job = keeper.launch("sleep", "300")
    assert "has not ended" in str(job.remove())
    job.launched()

    assert "has not ended" in str(job.remove())
    assert job.directory.path.exists()

    keeper.send(SignalJob(job.id, 9, tree=True))
    job.exited()

    assert job.remove() is None


def test_unknown_job(keeper: KeeperProcess) -> None:
    """What is not there need not be removed."""
    keeper.send(RemoveJob(UNKNOWN))

    assert keeper.expect(JobGone) == JobGone(UNKNOWN)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../jobs", "lost+found", "../trash", "x" * 36, f"{UNKNOWN}/.."],
)
def test_names_that_are_no_jobs(keeper: KeeperProcess, name: str) -> None:
    """Nothing but a directory with a job's name is ever touched."""
    jobs = keeper.config.jobs_dir
    (jobs / "lost+found").mkdir(exist_ok=True)
    keeper.send(RemoveJob(name))
    keeper.send(SealJob(name, Postscript("00", "00")))

    assert keeper.expect(JobGone, lambda gone: gone.job == name).error is not None
    assert (jobs / "lost+found").is_dir()
    assert not (jobs / name / "exit").exists()


def test_upper_case(keeper: KeeperProcess) -> None:
    """A job's ID has one spelling."""
    job = keeper.launch("true")
    job.exited()
    keeper.send(RemoveJob(job.id.upper()))

    assert keeper.expect(JobGone).error is not None
    assert job.directory.path.exists()


def test_directory_that_cannot_be_moved(place: Place) -> None:
    """A removal that fails says why, and leaves the job as it was."""
    with KeeperProcess(place.config()) as keeper:
        job = keeper.launch("echo", "x")
        job.exited()
        trash = keeper.config.state_dir / "trash"
        trash.touch()

        assert "File exists" in str(job.remove())
        assert job.output() == b"x\n"

        trash.unlink()

        assert job.remove() is None


def test_large_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large file is freed in steps, and between any two others have their turn."""
    events: list[str] = []
    truncate = os.ftruncate

    def cut(fd: int, size: int) -> None:
        truncate(fd, size)
        events.append("cut")

    monkeypatch.setattr(os, "ftruncate", cut)

    async def other() -> None:
        while True:
            events.append("other")
            await asyncio.sleep(0)

    async def scenario() -> None:
        path = big_job(tmp_path / "jobs", size=200 * MIB)
        trash = Trash(tmp_path)
        running = asyncio.create_task(other())
        assert trash.take(path)
        assert not path.exists()
        assert events == []

        await until(lambda: not list((tmp_path / "trash").iterdir()))
        running.cancel()
        await trash.close()

    asyncio.run(scenario())
    cuts = [at for at, event in enumerate(events) if event == "cut"]

    assert len(cuts) == 3
    assert all("other" in events[cuts[n] : cuts[n + 1]] for n in range(2))


def test_answers_during_a_removal(place: Place) -> None:
    """Whoever asks for something meanwhile is served before the files are gone."""
    change = """
import os, time
from teleworkerd.keeper import removal
truncate = os.ftruncate
def slowly(fd, size):
    truncate(fd, size)
    time.sleep(0.05)
os.ftruncate = slowly
removal._STEP = 1 << 16
"""
    with KeeperProcess(place.config(), change=change) as keeper:
        path = big_job(keeper.config.jobs_dir, size=4 * MIB)
        trash = keeper.config.state_dir / "trash"
        keeper.send(RemoveJob(path.name))
        keeper.expect(JobGone)
        record, text = keeper.run("echo", "x")
        left = (trash / path.name / "stdout").stat().st_size

    assert (record.exit_code, text) == (0, b"x\n")
    assert 0 < left < 4 * MIB


def test_trash_of_an_earlier_keeper(place: Place) -> None:
    """What a keeper could not remove before its end, the next one does."""
    trash = place.state / "trash"
    path = big_job(trash, size=100)
    (trash / "file").touch()
    (trash / "link").symlink_to(place.shared)
    (path / "odd").mkdir()
    (path / "link").symlink_to(place.script(b"text"))

    with KeeperProcess(place.config()):
        eventually(lambda: not list(trash.iterdir()), what="empty trash")

    assert (place.shared / "script").read_bytes() == b"text"


def test_end_during_a_removal(tmp_path: Path) -> None:
    """A keeper that ends does not wait for large files; the next one goes on."""

    async def scenario() -> None:
        path = big_job(tmp_path / "jobs", size=200 * MIB)
        trash = Trash(tmp_path)
        trash.take(path)
        await asyncio.sleep(0)
        await trash.close()
        assert (tmp_path / "trash" / path.name).exists()

        again = Trash(tmp_path)
        again.open()
        await until(lambda: not list((tmp_path / "trash").iterdir()))
        await again.close()

    asyncio.run(scenario())


def test_holes(tmp_path: Path) -> None:
    """A spool that is all hole is gone at once, whatever its size."""

    async def scenario() -> None:
        path = big_job(tmp_path / "jobs", size=MIB)
        os.truncate(path / "stdout", 1 << 40)
        trash = Trash(tmp_path)
        trash.take(path)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

        assert not (tmp_path / "trash" / path.name).exists()

        await trash.close()

    asyncio.run(scenario())


def test_link_in_place_of_a_job(tmp_path: Path) -> None:
    """A symbolic link is removed, and not what it leads to."""
    target = big_job(tmp_path / "elsewhere", size=100)
    link = tmp_path / "link"
    link.symlink_to(target)

    async def scenario() -> None:
        trash = Trash(tmp_path)
        assert trash.take(link)
        await until(lambda: not list((tmp_path / "trash").iterdir()))
        await trash.close()

    asyncio.run(scenario())
    assert (target / "stdout").stat().st_size == 100


def test_what_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One directory that resists does not keep the others."""
    first, second = (big_job(tmp_path / "jobs", size=1) for _ in range(2))
    remove = shutil.rmtree

    def resist(path: Path) -> None:
        if path.name == first.name:
            raise PermissionError(1, "no")

        remove(path)

    monkeypatch.setattr(shutil, "rmtree", resist)

    async def scenario() -> None:
        trash = Trash(tmp_path)
        trash.take(first)
        trash.take(second)
        await until(lambda: not (tmp_path / "trash" / second.name).exists())
        await trash.close()

    asyncio.run(scenario())
    assert f"{first.name} is removed at the next start" in caplog.text
