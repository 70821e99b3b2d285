"""What a server that was taken over would ask for, and does not get."""

import errno
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest

from teleworkerd.execution import JobIdentity, Postscript
from teleworkerd.keeper.messages import JobGone
from teleworkerd.keeper.orders import Launch, RemoveJob, SealJob, SignalJob, StopJob
from teleworkerd.protocol.codec import encode, pack
from teleworkerd.protocol.messages import Message
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.types import LaunchStage, Reason
from teleworkerd.settings import ClientsConfig, JobsConfig
from tests.keeper.kept import KeeperProcess, KeptJob, Place, is_alive, with_jobs


TRUE: Final = JobSpec((b"true",))


def identity(job_id: str | None = None, owner: str = "mallory") -> JobIdentity:
    """Return the identity of a job that nobody has seen yet."""
    return JobIdentity(job_id or str(uuid.uuid4()), owner, "r", time.time_ns())


def ends(keeper: KeeperProcess) -> bool:
    """Wait until the keeper has broken off; false if it says something instead."""
    while keeper.receive(5):
        continue

    return keeper.process.wait(10) == 0


@pytest.mark.parametrize(
    ("owner", "user", "granted"),
    [
        ("mallory", "root", False),
        ("mallory", "daemon", False),
        ("alice", "root", False),
        ("alice", None, "daemon"),
        ("alice", "daemon", "daemon"),
        ("alice", "nobody", "nobody"),
        ("mallory", None, "nobody"),
        ("mallory", "nobody", "nobody"),
        ("ops", None, "root"),
    ],
)
def test_account(place: Place, owner: str, user: str | None, granted: object) -> None:
    """A job runs as an account that is granted to its owner, or not at all."""
    users = {"alice": ("daemon", "nobody"), "ops": ("root",)}

    with KeeperProcess(place.config(JobsConfig(users=users))) as keeper:
        job = keeper.launch("id", "-un", owner=owner, user=user)

        if granted:
            job.exited()
            assert job.output().decode() == f"{granted}\n"
        else:
            failure = job.failed()
            assert (failure.stage, failure.errno) == (LaunchStage.USER, errno.EPERM)
            assert f"account {user} is not granted to {owner}" in failure.message
            assert not job.directory.path.exists()


@pytest.mark.parametrize(
    "forge",
    [
        lambda _: Launch(identity("../../etc"), TRUE),
        lambda _: Launch(identity("x" * 200), TRUE),
        lambda _: Launch(identity("-"), TRUE),
        lambda job: Launch(identity(job.id), TRUE),
        lambda _: Launch(identity(owner="../root"), TRUE),
        lambda _: Launch(identity(owner="root\n"), TRUE),
        lambda _: Launch(identity(owner=""), TRUE),
        lambda job: StopJob(job.id, Reason.LOST, 0),
        lambda job: StopJob(job.id, Reason.EXITED, 0),
    ],
)
def test_breach(place: Place, forge: Callable[[KeptJob], Message]) -> None:
    """What no server in its right mind asks for ends the channel, and does nothing."""
    with KeeperProcess(place.config()) as keeper:
        job = keeper.launch("sleep", "1000")
        job.launched()
        keeper.send(forge(job))

        assert ends(keeper)
        assert len(list(place.state.joinpath("jobs").iterdir())) == 1
        assert "the channel between server and keeper is broken" in keeper.close()


@pytest.mark.parametrize(
    "forged",
    [
        RemoveJob("../../../etc"),
        RemoveJob(""),
        SealJob("..", Postscript()),
        SignalJob("/proc/1", 9, tree=True),
        StopJob(".", Reason.KILLED, 0),
    ],
)
def test_nobodys_job(keeper: KeeperProcess, forged: Message) -> None:
    """Of what is no job nothing is sealed, removed, signalled or stopped."""
    keeper.send(forged)
    record, _ = keeper.run("true")

    assert record.exit_code == 0

    if isinstance(forged, RemoveJob):
        assert "is no job's ID" in (keeper.expect(JobGone).error or "")


@pytest.mark.parametrize("number", [0, -1, 65, 1 << 40])
def test_signal_number(place: Place, number: int) -> None:
    """A number that is no signal's is a breach too."""
    with KeeperProcess(place.config()) as keeper:
        job = keeper.launch("sleep", "1000")
        job.launched()
        keeper.send_bytes(
            pack({"type": "signal", "job": job.id, "number": number, "tree": True})
        )

        assert ends(keeper)
        keeper.close()


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        b"\0\0\0\0",
        b"\0\0\0\x01\xc1",
        pack({"type": "launch"}),
        pack({"type": "welcome"}),
        pack({"type": "no-such"}),
        pack({"type": "signal", "job": "x", "number": "9", "tree": 1}),
        os.urandom(4096),
    ],
    ids=["huge", "empty", "never", "half", "ours", "unknown", "types", "noise"],
)
def test_garbage(place: Place, data: bytes) -> None:
    """What is no message ends the channel, and the jobs' fate is the keeper's alone."""
    with KeeperProcess(place.config()) as keeper:
        job = keeper.launch("sleep", "1000")
        pid = job.launched().launched.pid
        assert is_alive(pid)
        keeper.send_bytes(data)

        assert ends(keeper)
        keeper.close()


def test_limits_are_checked(place: Place) -> None:
    """A limit out of its range does not get to the cgroups."""
    with KeeperProcess(place.config()) as keeper:
        job = {"id": str(uuid.uuid4()), "owner": "a", "request_id": "r"}
        spec = {"command": [b"true"], "limits": {"mem": -1}}
        keeper.send_bytes(
            pack({"type": "launch", "job": job | {"created_at": 1}, "spec": spec})
        )

        assert ends(keeper)
        assert list(place.state.joinpath("jobs").iterdir()) == []
        keeper.close()


def test_count(place: Place) -> None:
    """Nobody has more jobs running than one may, whatever the server asks for."""
    config = replace(place.config(), clients=ClientsConfig(running_jobs=2))

    with KeeperProcess(config) as keeper:
        jobs = [keeper.launch("sleep", "1000", owner="mallory") for _ in range(2)]
        failure = keeper.launch("true", owner="mallory").failed()
        keeper.launch("true", owner="alice").exited()

        for job in jobs:
            job.launched()
            keeper.send(SignalJob(job.id, 9, tree=True))
            job.exited()

        keeper.launch("true", owner="mallory").exited()

    assert failure.errno == errno.EAGAIN
    assert "mallory has 2 jobs that run, and may have 2" in failure.message


def test_without_choice(place: Place) -> None:
    """The account that everybody has may be asked for by its name."""
    config = with_jobs(place.config(), user="daemon")

    with KeeperProcess(config) as keeper:
        job = keeper.launch("id", "-un", user="daemon")
        job.exited()

        assert job.output() == b"daemon\n"


def test_flood_of_signals(place: Place) -> None:
    """The same signal again, before it was sent, is one: a tree may be large."""
    with KeeperProcess(place.config()) as keeper:
        job = keeper.launch("sleep", "1000")
        job.launched()
        order = b"".join(encode(SignalJob(job.id, 18, tree=True)))
        keeper.send_bytes(order * 3000)
        keeper.run("true")
        text = place.state.joinpath("audit.jsonl").read_text()

    assert 0 < text.count('"event": "signal"') < 1500
