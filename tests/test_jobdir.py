"""A job's directory: its names are fixed, its exit record is whole or not there."""

import errno
import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from teleworkerd.jobdir import (
    JobDirectory,
    is_job_name,
    open_new,
    write_by_rename,
)
from teleworkerd.protocol.fields import dump
from teleworkerd.protocol.types import Stream
from tests.fakes import EXITED


JOB: Final = "01234567-89ab-cdef-0123-456789abcdef"


@pytest.fixture
def directory(tmp_path: Path) -> JobDirectory:
    """A directory, made."""
    directory = JobDirectory(tmp_path / "job")
    directory.create()
    return directory


def test_is_private(directory: JobDirectory) -> None:
    """Directory and files are for the daemon's eyes only."""
    os.close(open_new(directory.spool(Stream.STDOUT)))

    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o750
    assert stat.S_IMODE((directory.path / "stdout").stat().st_mode) == 0o640


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
    assert (directory.spec, directory.index, directory.gaps, directory.exit) == (
        path / "spec",
        path / "index",
        path / "gaps",
        path / "exit",
    )


def test_spec(directory: JobDirectory) -> None:
    """A spec is written once, and never over another."""
    directory.write_spec(b"spec")

    with pytest.raises(FileExistsError):
        directory.write_spec(b"other")

    assert directory.spec.read_bytes() == b"spec"


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        (JOB, True),
        (JOB.upper(), False),
        (f"{JOB}\n", False),
        (f"{JOB}/..", False),
        (JOB.replace("-", ""), False),
        (f"{{{JOB}}}", False),
        ("", False),
        ("..", False),
        ("lost+found", False),
    ],
)
def test_name_of_a_job(name: str, is_one: bool) -> None:  # noqa: FBT001  a fact
    """A job's directory has a UUID for its name, in its usual spelling."""
    assert is_job_name(name) is is_one


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


def test_encoding_is_not_guessed(directory: JobDirectory) -> None:
    """What looks like another encoding is unreadable, and loads no codec."""
    directory.exit.write_bytes(spoilt().encode("utf-32-be"))

    assert directory.read_exit() is None


def test_replaced_at_once(tmp_path: Path) -> None:
    """The old file stays whole for who has it open."""
    path = tmp_path / "file"
    write_by_rename(path, b"old")

    with path.open("rb") as file:
        write_by_rename(path, b"new")
        assert file.read() == b"old"

    assert path.read_bytes() == b"new"


def test_nothing_left_of_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be put in its place is not left beside it."""
    path = tmp_path / "file"
    write_by_rename(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(Path, "rename", fail)

        with pytest.raises(OSError, match="No space"):
            write_by_rename(path, b"new")

    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_nothing_made_where_nothing_is(tmp_path: Path) -> None:
    """A directory that was removed does not come back."""
    with pytest.raises(FileNotFoundError):
        JobDirectory(tmp_path / "gone").write_exit(EXITED)

    assert not list(tmp_path.iterdir())
