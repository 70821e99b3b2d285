"""Job records: new ones, and those that are made again from the jobs' directories."""

import hashlib
import logging
import os
import shlex
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Final, cast

from teleworkerd.execution import JobIdentity
from teleworkerd.jobdir import JobDirectory, is_job_name
from teleworkerd.keeper.orders import Launch, load_order
from teleworkerd.protocol.codec import dump_record
from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.fields import dump
from teleworkerd.protocol.responses import JobNews
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import JobState
from teleworkerd.store import JobRecord


log = logging.getLogger(__name__)

_LOGGED: Final = 200  # characters of a command
_LATER: Final = (
    "strict_limits",
    "stdin",
    "tty",
    "wait_all",
)  # fields of a spec that not all specs had


def spec_digest(spec: JobSpec) -> bytes:
    """Return what tells *spec* from every other one."""
    fields = cast("dict[str, object]", dump(spec))

    # A digest that was made before there was such a field holds as ever.
    for name in _LATER:
        if not fields.get(name):
            fields.pop(name, None)

    return hashlib.sha256(dump_record(fields)).digest()


def new_record(
    job: JobIdentity, spec: JobSpec, *, timeout: float | None = None
) -> JobRecord:
    """Return the record of a job that is about to be started.

    *timeout* is what it has if it asks for none.
    """
    status = JobStatus(
        id=job.id,
        owner=job.owner,
        command=spec.command,
        state=JobState.STARTING,
        created_at=job.created_at,
        limits=spec.limits,
        name=spec.name,
        labels=spec.labels,
        workdir=spec.workdir,
        timeout=spec.timeout or timeout,
        merge=spec.merge,
        output_limit=spec.output_limit,
        on_full=spec.on_full,
        stdin=spec.stdin,
        tty=spec.tty is not None,
        wait_all=spec.wait_all,
    )
    return JobRecord(job.request_id, spec_digest(spec), status, spec)


def news_of(status: JobStatus, at: int, *, removed: bool = False) -> JobNews:
    """Return what is to be told of a job, but for its number."""
    return JobNews(
        number=0,
        at=at,
        job=status.id,
        owner=status.owner,
        state=status.state,
        name=status.name,
        reason=status.reason,
        exit_code=status.exit_code,
        removed=removed,
    )


def show_command(command: tuple[bytes, ...]) -> str:
    """Return *command* for a line of the log, which it does not fill."""
    shown = shlex.join(os.fsdecode(part[:_LOGGED]) for part in command[:_LOGGED])
    return shown if len(shown) <= _LOGGED else f"{shown[:_LOGGED]}…"


def found_again(jobs_dir: Path, known: Container[str]) -> Iterator[JobRecord]:
    """Yield a record for each directory of a job that is not *known*, oldest first.

    It is as if the job were about to be started: its directory says the rest.
    """
    orders: list[Launch] = []

    for name in os.listdir(jobs_dir):  # noqa: PTH208  names it is
        if is_job_name(name) and name not in known:
            try:
                orders.append(_order_in(JobDirectory(jobs_dir / name)))
            except (OSError, ValueError, TeleworkerError) as error:
                log.error("nobody knows whose job %s was: %s", name, error)

    for order in sorted(orders, key=lambda order: order.job.created_at):
        yield new_record(order.job, order.spec)


def _order_in(directory: JobDirectory) -> Launch:
    """Return what was ordered there; raises `ValueError` for the copy of another."""
    order = load_order(directory.spec.read_bytes())

    if order.job.id != directory.path.name:
        raise ValueError(f"its spec is that of job {order.job.id!r:.80}")

    return order
