"""The audit log: what stands in it, when, and what if nothing can be written."""

import json
import os
import subprocess
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from teleworkerd.config import Config
from teleworkerd.execution import Caller, JobIdentity
from teleworkerd.keeper.audit import AuditLog
from teleworkerd.keeper.orders import Launch, Noted, RemoveJob, SignalJob, StopJob
from teleworkerd.protocol.spec import JobSpec, Limits
from teleworkerd.protocol.types import LaunchStage, Reason
from teleworkerd.settings import AuditConfig
from teleworkerd.spare import Spare
from tests.keeper.kept import KeeperProcess, KeptJob, Place


ALICE: Final = Caller("alice", "0A", "203.0.113.7:4711")
HOSTILE: Final = 'x\x1b[2J\x7f\x9b\u202e\n"}'


def records(place: Place) -> list[dict[str, Any]]:
    """Return what stands in the log, but for the begin and the end of the daemon."""
    text = place.state.joinpath("audit.jsonl").read_text(encoding="ascii")
    found = [json.loads(line) for line in text.splitlines()]
    return [each for each in found if each["event"] != "daemon"]


def start(keeper: KeeperProcess, *command: str, **spec: Any) -> KeptJob:
    """Have alice start *command*."""
    identity = JobIdentity(str(uuid.uuid4()), "alice", "r", time.time_ns())
    keeper.send(
        Launch(identity, JobSpec(tuple(map(os.fsencode, command)), **spec), ALICE)
    )
    return KeptJob(keeper, identity)


def audited(config: Config, **settings: Any) -> Config:
    """Return *config* with other settings in `[audit]`."""
    return replace(config, audit=AuditConfig(**settings))


def test_life_of_a_job(place: Place) -> None:
    """What is done with a job stands there, by whom and as whom."""
    limits = Limits(mem=64)

    with KeeperProcess(place.config()) as keeper:
        job = start(keeper, "sleep", "1000", limits=limits, workdir=b"/tmp")
        job.launched()
        keeper.send(SignalJob(job.id, 18, tree=True, by=ALICE))
        keeper.send(StopJob(job.id, Reason.KILLED, 0, by=ALICE))
        job.exited()
        keeper.send(RemoveJob(job.id, by=ALICE))
        assert job.remove() is None

    first, *others = records(place)

    assert first.pop("time").endswith("+00:00")
    assert first == {
        "event": "start",
        "result": "ok",
        "by": {"name": "alice", "serial": "0A", "peer": "203.0.113.7:4711"},
        "job": job.id,
        "owner": "alice",
        "request_id": "r",
        "command": ["sleep", "1000"],
        "workdir": "/tmp",
        "user": "nobody",
        "limits": {"mem": 64},
    }
    assert [(each["event"], each.get("reason")) for each in others] == [
        ("signal", None),
        ("stop", "killed"),
        ("end", "killed"),
        ("remove", None),
        ("remove", None),
    ]
    assert others[0]["signal"] == 18
    assert all(each["job"] == job.id for each in others)
    assert [each["by"]["name"] for each in others if "by" in each] == ["alice"] * 3


def test_before_the_action(place: Place) -> None:
    """What a job can see of the world, it sees after its start was written down."""
    log = place.state / "audit.jsonl"

    with KeeperProcess(place.config()) as keeper:
        job = keeper.launch("stat", "-c", "%s", str(log), owner="ops", user="nobody")
        job.exited()

    # The directory is closed to it; the record is there all the same, and first.
    assert [each["event"] for each in records(place)] == ["start", "end"]


def test_failed_start(place: Place) -> None:
    """A start that fails has an end with the stage and the reason."""
    with KeeperProcess(place.config()) as keeper:
        start(keeper, "/no/such").failed()
        start(keeper, "true", user="root").failed()

    assert [
        (each["event"], each["result"], each.get("reason")) for each in records(place)
    ] == [
        ("start", "ok", None),
        ("end", LaunchStage.EXEC, "launch"),
        ("end", LaunchStage.USER, "launch"),
    ]


def test_notes(place: Place) -> None:
    """What the server says of refusals stands there with the keeper's time."""
    with KeeperProcess(place.config()) as keeper:
        keeper.send(Noted("refuse", "certificate", "why", by=ALICE, count=7))
        keeper.run("true")

    note = records(place)[0]

    assert note.pop("time")
    assert note == {
        "event": "refuse",
        "result": "certificate",
        "message": "why",
        "by": {"name": "alice", "serial": "0A", "peer": "203.0.113.7:4711"},
        "count": 7,
    }


def test_control_characters(place: Place) -> None:
    """Whatever is in a command, a record is one line of printable ASCII."""
    with KeeperProcess(place.config()) as keeper:
        keeper.run("echo", HOSTILE, b"\xff\x00"[:1])

    data = place.state.joinpath("audit.jsonl").read_bytes()

    assert all(0x20 <= byte < 0x7F or byte == 0x0A for byte in data)
    assert records(place)[0]["command"] == ["echo", HOSTILE, "\udcff"]


def test_modes(place: Place) -> None:
    """Nobody but root reads it."""
    with KeeperProcess(place.config()) as keeper:
        keeper.run("true")

    found = place.state.joinpath("audit.jsonl").stat()

    assert (found.st_uid, found.st_mode & 0o777) == (0, 0o600)


def test_begin_and_end(place: Place) -> None:
    """From when to when the daemon was there stands in the log."""
    with KeeperProcess(place.config()) as keeper:
        keeper.run("true")

    text = place.state.joinpath("audit.jsonl").read_text()
    first, *_, last = map(json.loads, text.splitlines())

    assert (first["event"], first["message"][:6]) == ("daemon", "began,")
    assert (last["event"], last["message"]) == ("daemon", "ended")


def test_rotation(place: Place) -> None:
    """A file that was moved away is followed by a new one."""
    log = place.state / "audit.jsonl"

    with KeeperProcess(place.config()) as keeper:
        keeper.run("true")
        log.rename(place.state / "audit.1")
        keeper.run("true")

    assert [each["event"] for each in records(place)] == ["start", "end"]


@pytest.mark.parametrize("fail_closed", [False, True])
def test_unwritable(place: Place, *, fail_closed: bool) -> None:
    """Without the log jobs are started all the same, unless that is not wanted."""
    file = place.shared / "no-such-directory" / "audit.jsonl"
    config = audited(place.config(), file=str(file), fail_closed=fail_closed)

    with KeeperProcess(config) as keeper:
        job = start(keeper, "true")

        if fail_closed:
            assert "audit log cannot be written" in job.failed().message
        else:
            job.exited()

        file.parent.mkdir()
        again = start(keeper, "true")
        again.exited()
        log = keeper.close()

    assert log.count("audit log") == 2
    assert "cannot be written: No such file or directory" in log
    # The begin of the daemon, the start and the end of the job.
    assert "is written again; 3 records are missing" in log
    gap = json.loads(file.read_text().splitlines()[0])
    assert (gap["event"], gap["count"]) == ("gap", 3)


@pytest.mark.cgroup
def test_half_a_line(tmp_path: Path) -> None:
    """On a full disk a record is there as a whole or not at all."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "audit"]
    subprocess.run([*mount, disk], check=True)
    spare = Spare(2)
    log = AuditLog(disk / "audit", spare)

    try:
        while not log.is_failing:
            log.write("one", message="x" * 1000)

        log.write("two")
        log.close()
        lines = (disk / "audit").read_text().splitlines()
    finally:
        spare.close()
        subprocess.run(["umount", disk], check=True)

    assert len(lines) > 50
    assert {json.loads(line)["event"] for line in lines} <= {"one", "two", "gap"}


def test_long_command(place: Place) -> None:
    """Of a long command the first 4 KiB stand there, and how long it was."""
    with KeeperProcess(place.config()) as keeper:
        keeper.run("true", "x" * 100_000)

    record = records(place)[0]

    assert record["command_bytes"] == len("true") + 1 + 100_000
    assert record["command"] == ["true", "x" * (4096 - 5)]
