"""A job's directory: its spec, its spools with their index, its launch, its end.

What stands here is the truth about a job; all else can be rebuilt from it.
"""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from teleworkerd.execution import ExitRecord, FailureRecord, Launched, LossRecord
from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.fields import dump, reader
from teleworkerd.protocol.types import Stream


_NAME: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_job_name(name: str) -> bool:
    """Whether *name* is that of a job's directory: a UUID, as they are written."""
    return _NAME.fullmatch(name) is not None


def is_plain_name(name: str) -> bool:
    """Whether *name* names something in a directory, and nothing elsewhere."""
    return "/" not in name and name not in {"", ".", ".."}


def write_by_rename(path: Path, data: bytes) -> None:
    """Put *data* at *path*, so that a reader finds all of it or the old file.

    Raises `OSError`, and leaves nothing else behind then.
    """
    temporary = path.with_name(f".{path.name}.new")

    try:
        temporary.write_bytes(data)
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


@dataclass(frozen=True, slots=True)
class JobDirectory:
    """The files of one job below *path*."""

    path: Path

    @property
    def spec(self) -> Path:
        """What was asked for, as a `Launch` message; written before the start."""
        return self.path / "spec"

    @property
    def index(self) -> Path:
        """The records of `teleworkerd.output.index`."""
        return self.path / "index"

    @property
    def gaps(self) -> Path:
        """The records of `teleworkerd.output.gaps`, if anything was dropped."""
        return self.path / "gaps"

    @property
    def launch(self) -> Path:
        """How the command was launched, as JSON; empty while it is being launched.

        It is there before the command can run.
        """
        return self.path / "launch"

    @property
    def failure(self) -> Path:
        """The failure record as JSON; there if the command never ran."""
        return self.path / "failure"

    @property
    def loss(self) -> Path:
        """The loss record as JSON; there if the end of the job was not seen."""
        return self.path / "loss"

    @property
    def exit(self) -> Path:
        """The exit record as JSON; there once the job is over."""
        return self.path / "exit"

    @property
    def has_ended(self) -> bool:
        """Whether it is written down what became of the job."""
        return any(end.exists() for end in (self.exit, self.failure, self.loss))

    def spool(self, stream: Stream) -> Path:
        """The plain bytes of *stream*."""
        return self.path / stream

    def create(self) -> None:
        """Make the directory, for the daemon's eyes only.

        Its group is that of the directory of jobs: the server's, which only reads.
        """
        self.path.mkdir(mode=0o750)

    def remove(self) -> None:
        """Remove the directory of a job that never ran, as far as possible."""
        shutil.rmtree(self.path, ignore_errors=True)

    def write_spec(self, data: bytes) -> None:
        """Write the spec, a new file."""
        with os.fdopen(open_new(self.spec), "wb") as file:
            file.write(data)

    def begin_launch(self) -> None:
        """Write that from now on the command may run; again is no harm."""
        self.launch.touch(mode=0o640)

    def write_launched(self, launched: Launched) -> None:
        """Write that the command runs.

        Half of it says no less than nothing at all: that the command may have run.
        """
        self.launch.write_bytes(_pack(launched))

    def read_launched(self) -> Launched | None:
        """Return how the command was launched; None when nobody noted it."""
        return cast("Launched | None", _read(self.launch, Launched))

    def write_failure(self, record: FailureRecord) -> None:
        """Write why the command never ran, by rename."""
        write_by_rename(self.failure, _pack(record))

    def read_failure(self) -> FailureRecord | None:
        """Return why the command never ran; None when nothing can be read."""
        return cast("FailureRecord | None", _read(self.failure, FailureRecord))

    def write_loss(self, record: LossRecord) -> None:
        """Write why nobody knows how the job ended, by rename."""
        write_by_rename(self.loss, _pack(record))

    def read_loss(self) -> LossRecord | None:
        """Return why nobody knows how the job ended; None when nothing can be read."""
        return cast("LossRecord | None", _read(self.loss, LossRecord))

    def write_exit(self, record: ExitRecord) -> None:
        """Write the exit record, by rename."""
        write_by_rename(self.exit, _pack(record))

    def read_exit(self) -> ExitRecord | None:
        """Return the exit record; None when there is none that can be read."""
        return cast("ExitRecord | None", _read(self.exit, ExitRecord))


def _pack(record: object) -> bytes:
    return json.dumps(dump(record)).encode()


def _read(path: Path, kind: type) -> Any:
    # Of bytes, json guesses the encoding, and Python loads the one it guesses from a
    # file: the account of the server may not be allowed to read that.
    try:
        return reader(kind)(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError, TeleworkerError):
        return None


def open_new(path: Path, flags: int = 0) -> int:
    """Return a descriptor that writes the new file at *path*, mode 0640."""
    return os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | flags, 0o640
    )
