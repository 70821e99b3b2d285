"""A job's directory: its names are fixed, its exit record is whole or not there."""

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from teleworkerd.jobdir import JobDirectory, open_new, write_by_rename
from teleworkerd.protocol.fields import dump
from teleworkerd.protocol.types import Stream
from tests.fakes import EXITED


@pytest.fixture
def directory(tmp_path: Path) -> JobDirectory:
    """A directory, made."""
    directory = JobDirectory(tmp_path / "job")
    directory.create()
    return directory


def test_is_private(directory: JobDirectory) -> None:
    """Directory and files are for the daemon's eyes only."""
    os.close(open_new(directory.spool(Stream.STDOUT)))

    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory.path / "stdout").stat().st_mode) == 0o600


def test_files_are_new(directory: JobDirectory) -> None:
    """Nothing is written into what was there, a symbolic link least of all."""
    (directory.path / "stdout").symlink_to("/dev/null")

    with pytest.raises(FileExistsError):
        open_new(directory.spool(Stream.STDOUT))

    with pytest.raises(FileExistsError):
        directory.create()


def test_names(directory: JobDirectory) -> None:
    """An operator finds the files by the names that are documented."""
    path = directory.path

    assert [directory.spool(stream) for stream in Stream] == [
        path / "stdout",
        path / "stderr",
    ]
    assert (directory.spec, directory.index, directory.exit) == (
        path / "spec",
        path / "index",
        path / "exit",
    )


def test_exit_survives(directory: JobDirectory) -> None:
    """An exit record is read as it was written; the last one counts."""
    assert directory.read_exit() is None

    directory.write_exit(replace(EXITED, truncated=True))
    directory.write_exit(EXITED)

    assert directory.read_exit() == EXITED
    assert [path.name for path in directory.path.iterdir()] == ["exit"]


def spoilt(**fields: object) -> str:
    """Return an exit record with other *fields* in it."""
    return json.dumps({**json.loads(json.dumps(dump(EXITED))), **fields})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "\udcff",
        spoilt(reason="boredom"),
        spoilt(exit_code="0"),
        spoilt(
            launched={"pid": 1, "started_at": 1, "user": "x", "applied": {"mem": 1}}
        ),
    ],
)
def test_unreadable_exit_is_none(directory: JobDirectory, text: str) -> None:
    """A record that cannot be read says nothing about the job."""
    directory.exit.write_bytes(text.encode(errors="surrogateescape"))

    assert directory.read_exit() is None


def test_replaced_at_once(tmp_path: Path) -> None:
    """The old file stays whole for who has it open."""
    path = tmp_path / "file"
    write_by_rename(path, b"old")

    with path.open("rb") as file:
        write_by_rename(path, b"new")
        assert file.read() == b"old"

    assert path.read_bytes() == b"new"
