"""The audit log: who did what, written by root before it is done.

One JSON object a line. A server that was taken over cannot change what stands here,
nor leave out what the keeper does for it.
"""

import errno
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from teleworkerd.execution import Caller, ExitRecord
from teleworkerd.keeper.orders import (
    Launch,
    Noted,
    RemoveJob,
    SignalJob,
    StopJob,
    TakeInput,
)
from teleworkerd.protocol.status import LaunchFailure
from teleworkerd.protocol.types import Reason
from teleworkerd.spare import Spare


log = logging.getLogger(__name__)

OK: Final = "ok"

_LONGEST: Final = 4096  # bytes of a command

Fact = str | int | float | bool | list[str] | Mapping[str, int | float | str] | None


class AuditLog:
    """Appends to the file at *path*; a file that was put in its place is found.

    Never raises: `is_failing` says that the last record could not be written.
    """

    def __init__(self, path: Path, spare: Spare) -> None:
        self.is_failing = False
        self._path = path
        self._spare = spare
        self._fd: int | None = None
        self._lost = 0  # records that could not be written …
        self._lost_since = ""  # … and the time of the first

    def use(self, path: Path) -> None:
        """Write to *path* from now on."""
        if path != self._path:
            self.close()
            self._path = path

    def close(self) -> None:
        """Close the file; the next record opens it again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def started(self, order: Launch, user: str) -> None:
        """Note that a job is about to be started as *user*."""
        spec = order.spec
        command, size = _shown(spec.command)
        self.write(
            "start",
            by=order.by,
            job=order.job.id,
            owner=order.job.owner,
            request_id=order.job.request_id,
            command=command,
            command_bytes=size,
            workdir=None if spec.workdir is None else os.fsdecode(spec.workdir),
            user=user,
            limits=spec.limits.as_dict(),
            timeout=spec.timeout,
            name=spec.name,
        )

    def refused(self, order: Launch, failure: LaunchFailure) -> None:
        """Note that a job is not started, or could not be."""
        self.write(
            "end",
            failure.stage,
            by=order.by,
            user=order.spec.user,
            job=order.job.id,
            owner=order.job.owner,
            reason=Reason.LAUNCH,
            message=failure.message,
        )

    def never_ran(self, job_id: str, owner: str, failure: LaunchFailure) -> None:
        """Note that a job was not started by an earlier keeper, and will not be."""
        self.write(
            "end",
            failure.stage,
            job=job_id,
            owner=owner,
            reason=Reason.LAUNCH,
            message=failure.message,
        )

    def signaled(self, order: SignalJob, owner: str) -> None:
        """Note that a job is about to get a signal."""
        self.write(
            "signal",
            by=order.by,
            job=order.job,
            owner=owner,
            signal=order.number,
            tree=order.tree,
        )

    def stopped(self, order: StopJob, owner: str) -> None:
        """Note that a job is about to be ended."""
        self.write(
            "stop",
            by=order.by,
            job=order.job,
            owner=owner,
            reason=order.reason,
            grace=order.grace,
        )

    def took_input(self, order: TakeInput, owner: str) -> None:
        """Note that somebody is about to send to a job's stdin; not what."""
        self.write("input", by=order.by, job=order.job, owner=owner)

    def removed(self, order: RemoveJob) -> None:
        """Note that a job is about to be removed."""
        self.write("remove", by=order.by, job=order.job)

    def ended(self, job_id: str, owner: str, record: ExitRecord) -> None:
        """Note how a job has ended."""
        self.write(
            "end",
            job=job_id,
            owner=owner,
            user=record.launched.user,
            reason=record.reason,
            exit_code=record.exit_code,
            signal=record.signal,
        )

    def lost(self, job_id: str, owner: str, why: str) -> None:
        """Note that nobody knows how a job has ended."""
        self.write("end", job=job_id, owner=owner, reason=Reason.LOST, message=why)

    def noted(self, note: Noted) -> None:
        """Note what the server says: who was refused, or saw another's job."""
        self.write(
            note.event,
            note.result,
            by=note.by,
            job=note.job,
            owner=note.owner,
            message=note.message or None,
            count=note.count,
        )

    def write(
        self,
        event: str,
        result: str = OK,
        *,
        by: Caller | None = None,
        **facts: Fact,
    ) -> None:
        """Append a record; what is None is left out."""
        record = {
            "time": datetime.now(UTC).isoformat(timespec="microseconds"),
            "event": event,
            "result": result,
            "by": None if by is None else asdict(by),
            **facts,
        }
        lines = _line(record)

        if self._lost:
            lines = _line(self._gap(str(record["time"]))) + lines

        try:
            with self._spare.lent():
                self._append(lines)
        except OSError as error:
            self._lost_since = self._lost_since or str(record["time"])
            self._lost += 1
            self._failed(error)
        else:
            self._wrote()

    def _gap(self, now: str) -> dict[str, object]:
        """Return the record of those that could not be written."""
        facts = {"count": self._lost, "since": self._lost_since}
        return {"time": now, "event": "gap", "result": "lost"} | facts

    def _append(self, lines: bytes) -> None:
        """Append *lines*, or nothing; raises `OSError`.

        The room that is set aside is for the ends of jobs.
        """
        fd = self._open()
        size = os.fstat(fd).st_size

        if os.write(fd, lines) != len(lines):
            os.ftruncate(fd, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _open(self) -> int:
        if self._fd is not None and not self._is_at_path(self._fd):
            self.close()

        if self._fd is None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            # Not to wait for who reads it, should it be a pipe.
            self._fd = os.open(self._path, flags | os.O_NONBLOCK, 0o600)

        return self._fd

    def _is_at_path(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), self._path.stat())
        except FileNotFoundError:
            return False

    def _failed(self, error: OSError) -> None:
        if not self.is_failing:
            self.is_failing = True
            log.error("audit log %s cannot be written: %s", self._path, error.strerror)

    def _wrote(self) -> None:
        if self.is_failing:
            log.warning(
                "audit log %s is written again; %d records are missing",
                self._path,
                self._lost,
            )
            self.is_failing = False
            self._lost, self._lost_since = 0, ""


def _line(record: Mapping[str, object]) -> bytes:
    present = {name: value for name, value in record.items() if value is not None}
    # All but ASCII is escaped by JSON, except the last control character.
    return json.dumps(present).replace("\x7f", "\\u007f").encode() + b"\n"


def _shown(command: tuple[bytes, ...]) -> tuple[list[str], int | None]:
    """Return as much of *command* as is written; and its size, if that is not all."""
    whole = b"\0".join(command)
    kept = [os.fsdecode(part) for part in whole[:_LONGEST].split(b"\0")]
    return kept, len(whole) if len(whole) > _LONGEST else None
