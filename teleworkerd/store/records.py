"""The table of jobs: everything but the bytes of their output."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from teleworkerd.protocol.codec import dump_record, load_record
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.status import JobStatus


Row = tuple[bytes, bytes, bytes, bytes, bytes | None]

# As bytes: text that a fault of the disk has changed may be no text.
SELECT: Final = """
    SELECT CAST(id AS BLOB), CAST(request_id AS BLOB), spec_digest, status, spec
    FROM job ORDER BY created_at, id
"""
_INSERT: Final = """
    INSERT INTO job (id, owner, request_id, spec_digest, created_at, status, spec)
    VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET status = excluded.status, spec = excluded.spec
"""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as it is stored: everything but the bytes of its output.

    Of a job that is still to be started there is the `spec`.
    """

    request_id: str
    spec_digest: bytes
    status: JobStatus
    spec: JobSpec | None = None


def write_records(
    database: sqlite3.Connection, records: Mapping[str, JobRecord | None]
) -> None:
    """Write *records* by their ids, within a transaction; None removes one."""
    removed = [job_id for job_id, record in records.items() if record is None]
    kept = [record for record in records.values() if record is not None]
    database.executemany(
        "DELETE FROM job WHERE id = ?", [(job_id,) for job_id in removed]
    )
    # Of a job that was removed the record may have been left behind.
    database.executemany(
        "DELETE FROM job WHERE owner = ? AND request_id = ? AND id != ?",
        [(record.status.owner, record.request_id, record.status.id) for record in kept],
    )
    database.executemany(
        _INSERT,
        [
            (
                record.status.id,
                record.status.owner,
                record.request_id,
                record.spec_digest,
                record.status.created_at,
                dump_record(record.status),
                None if record.spec is None else dump_record(record.spec),
            )
            for record in kept
        ],
    )


def read_record(
    job_id: bytes, request_id: bytes, digest: bytes, data: bytes, order: bytes | None
) -> JobRecord:
    """Return a record; raises `ProtocolError` or `ValueError` if it is none."""
    status = load_record(JobStatus, data)

    if status.id.encode() != job_id:
        raise ValueError("it is that of another")

    spec = None if order is None else load_record(JobSpec, order)
    return JobRecord(request_id.decode(), digest, status, spec)
