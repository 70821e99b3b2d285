"""Records that are made from a request, and made again from a job's directory."""

import asyncio
import logging
import os
import threading
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from teleworkerd.config import Config
from teleworkerd.counters import Counters
from teleworkerd.execution import JobIdentity
from teleworkerd.jobdir import JobDirectory
from teleworkerd.jobs.manager import JobManager
from teleworkerd.jobs.records import found_again, new_record, spec_digest
from teleworkerd.keeper.orders import Launch
from teleworkerd.protocol.codec import dump_record
from teleworkerd.protocol.spec import JobSpec, Limits
from teleworkerd.protocol.types import JobState, OnFull
from teleworkerd.store import JobStore
from tests.fakes import DEADLINE, EXITED, FakeExecutor


FULL: Final = JobSpec(
    (b"sh", b"-c", b"\xff\xfe"),
    env={b"B": b"2", b"A": b"\xff"},
    workdir=b"/tmp",
    limits=Limits(mem=64, cpu=20, io=30),
    name="name",
    labels={"z": "1", "a": "ä"},
    timeout=1.5,
    merge=True,
    output_limit=1000,
    on_full=OnFull.DROP,
)


def order_of(number: int, spec: JobSpec = FULL) -> Launch:
    """Return the order for a job; the higher the number, the older it is."""
    identity = JobIdentity(str(uuid.uuid4()), "alice", f"request {number}", -number)
    return Launch(replace(identity, created_at=1000 - number), spec)


def keep(jobs_dir: Path, order: Launch, *, name: str | None = None) -> JobDirectory:
    """Write the directory of a job as the keeper does, or under another *name*."""
    directory = JobDirectory(jobs_dir / (name or order.job.id))
    directory.create()
    directory.write_spec(dump_record(order))
    return directory


@pytest.mark.parametrize(
    ("spec", "digest"),
    [
        (JobSpec((b"true",)), "6fba85aa9416ca12e8c61895"),
        (
            JobSpec(
                (b"x", b"y"),
                env={b"A": b"b"},
                limits=Limits(mem=64, cpu=5),
                name="n",
                timeout=3.0,
                merge=True,
            ),
            "e1c64e6eceb7028699254a9a",
        ),
    ],
)
def test_digest_of_earlier_servers(spec: JobSpec, digest: str) -> None:
    """A request that an earlier server carried out is known again by a later one."""
    assert spec_digest(spec).hex().startswith(digest)
    assert spec_digest(replace(spec, strict_limits=True)) != spec_digest(spec)


def test_new() -> None:
    """A record says all that was asked for, and nothing that is not known yet."""
    order = order_of(1)
    record = new_record(order.job, FULL)
    status = record.status

    assert record.request_id == order.job.request_id
    assert record.spec_digest == spec_digest(FULL)
    assert (status.id, status.owner) == (order.job.id, "alice")
    assert status.state is JobState.STARTING
    assert status.created_at == order.job.created_at

    for name in (
        *("command", "limits", "name", "labels", "workdir", "timeout", "merge"),
        *("output_limit", "on_full"),
    ):
        assert getattr(status, name) == getattr(FULL, name)

    unknown = ("exit_code", "reason", "error", "started_at", "pid", "lost", "durable")
    assert {getattr(status, name) for name in unknown} == {None}


def test_digest_tells_specs_apart() -> None:
    """Whatever of a spec is another, its digest is; the same spec has the same."""
    others = (
        replace(FULL, command=(b"sh", b"-c", b"\xff")),
        replace(FULL, env={}),
        replace(FULL, limits=Limits()),
        replace(FULL, labels={}),
        replace(FULL, timeout=1.25),
        replace(FULL, on_full=None),
    )

    assert len({spec_digest(spec) for spec in (FULL, *others)}) == 7
    assert spec_digest(replace(FULL)) == spec_digest(FULL)


def test_found_again(tmp_path: Path) -> None:
    """Each record is the one that was made for the request, oldest first."""
    orders = [order_of(number) for number in range(5)]

    for order in orders:
        keep(tmp_path, order)

    assert [*found_again(tmp_path, set())] == [
        new_record(order.job, order.spec) for order in reversed(orders)
    ]


def test_known(tmp_path: Path) -> None:
    """Those that are known are not looked at."""
    known, other = order_of(1), order_of(2)
    keep(tmp_path, known).spec.write_bytes(b"nonsense")
    keep(tmp_path, other)

    [found] = found_again(tmp_path, {known.job.id})

    assert found.status.id == other.job.id


def test_no_directories_of_jobs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What does not have the name of a job is none, and nobody's business."""
    for name in ("trash", "lost+found", str(uuid.uuid4()).upper()):
        keep(tmp_path, order_of(1), name=name)

    assert [*found_again(tmp_path, set())] == []
    assert caplog.records == []


@pytest.mark.parametrize("size", range(0, 400, 13))
def test_torn_spec(tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int) -> None:
    """A spec that is not whole makes no job; it is said whose owner is not known."""
    torn, whole = order_of(1), order_of(2)
    directory = keep(tmp_path, torn)
    data = directory.spec.read_bytes()
    directory.spec.write_bytes(data[: min(size, len(data) - 1)])
    keep(tmp_path, whole)

    [found] = found_again(tmp_path, set())

    assert found.status.id == whole.job.id
    [said] = caplog.records
    assert said.levelno == logging.ERROR
    assert f"nobody knows whose job {torn.job.id} was" in said.getMessage()


def test_no_spec(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nor does a directory without one, or something that is no directory."""
    (tmp_path / str(uuid.uuid4())).mkdir()
    (tmp_path / str(uuid.uuid4())).write_bytes(b"")

    assert [*found_again(tmp_path, set())] == []
    assert len(caplog.records) == 2


def test_impossible_spec(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A spec that no client could have sent is none."""
    order = order_of(1)
    directory = keep(tmp_path, order)
    data = directory.spec.read_bytes()
    directory.spec.write_bytes(data.replace(b"sh", b"s\0", 1))

    assert [*found_again(tmp_path, set())] == []
    assert order.job.id in caplog.text


def test_copy_of_a_directory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody's copy of a job's directory is no second job, nor in its place."""
    order = order_of(1)
    copy = str(uuid.uuid4())
    keep(tmp_path, order)
    keep(tmp_path, order, name=copy)

    [found] = found_again(tmp_path, set())

    assert found.status.id == order.job.id
    [said] = caplog.records
    assert f"nobody knows whose job {copy} was" in said.getMessage()
    assert order.job.id in said.getMessage()


async def test_ended_job_is_found_as_such(
    config: Config,
    executor: FakeExecutor,
    store: JobStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A slow disk does not let a job run again that had ended and was said to have."""
    order = order_of(1)
    keep(config.jobs_dir, order)
    executor.exits[order.job.id] = EXITED
    gate = threading.Event()
    work = os.fdatasync

    def slow(fd: int) -> None:
        assert gate.wait(DEADLINE)
        work(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    slowly = replace(config, output=replace(config.output, sync_interval=5))
    manager = JobManager(
        executor=executor, store=store, config=slowly, counters=Counters()
    )
    asyncio.get_running_loop().call_later(0.1, gate.set)

    try:
        await manager.load()
        job = manager.get(order.job.id, owner="alice")
        found = job.status
        status = await job.wait()
    finally:
        gate.set()
        manager.close()

    assert status.durable is True
    assert found.state is status.state is JobState.FINISHED
    assert found.exit_code == status.exit_code == EXITED.exit_code
