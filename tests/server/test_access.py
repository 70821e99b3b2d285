"""Roles: what each may do with its own jobs and with those of others."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from teleworkerd.counters import Counters
from teleworkerd.execution import Caller
from teleworkerd.jobs.job import Job
from teleworkerd.jobs.manager import JobManager
from teleworkerd.keeper.orders import Noted
from teleworkerd.protocol.errors import (
    AmbiguousJob,
    JobNotFound,
    PermissionDenied,
    RequestError,
)
from teleworkerd.protocol.messages import EVERYBODY
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.types import Role
from teleworkerd.server.access import Access, Right
from teleworkerd.server.trail import Trail
from teleworkerd.settings import AccessConfig
from teleworkerd.store import JobStore
from tests.fakes import TRUE, FakeExecutor, config_in


ROLES: Final = AccessConfig(
    admin=("root", "ops-*"),
    operator=("oncall",),
    viewer=("dash",),
    deny=("mallory", "ops-evil"),
)

# Of one's own jobs, then of others': start, see, end, remove.
TABLE: Final = {
    "root": ("yyyyy", "-yyyy"),
    "oncall": ("yyyyy", "-yynn"),
    "dash": ("nynnn", "-ynnn"),
    "alice": ("yyyyy", "-----"),
    "mallory": ("nnnnn", "-----"),
}


class Scene:
    """Jobs of several people, and what was noted of who looked at them."""

    def __init__(self, manager: JobManager, config: AccessConfig = ROLES) -> None:
        self.manager = manager
        self.notes: list[Noted] = []
        self.trail = Trail(self.notes.append)
        self.access = Access(config, manager, self.trail)

    async def job(self, owner: str, name: str | None = None) -> Job:
        """Start a job of *owner*."""
        spec = JobSpec(TRUE.command, name=name)
        job, _ = await self.manager.run(spec, owner=owner, request_id=owner)
        return job

    def find(self, name: str, ref: str, right: Right) -> Job:
        """Look for a job as the one of that name."""
        return self.access.job(ref, caller(name), right, what=right)

    def outcome(self, name: str, job: Job, right: Right) -> str:
        """Try; return y for what is granted, n for denied, - for not found."""
        try:
            assert self.find(name, job.id, right) is job
        except PermissionDenied:
            return "n"
        except JobNotFound:
            return "-"

        return "y"


def caller(name: str) -> Caller:
    """Return a caller with that name."""
    return Caller(name, "0A", "203.0.113.7:1")


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """No jobs yet."""
    config = config_in(tmp_path)
    store = await JobStore(config.database).open()
    manager = JobManager(
        executor=FakeExecutor(config.jobs_dir),
        store=store,
        config=config,
        counters=Counters(),
    )
    await manager.load()
    yield Scene(manager)
    manager.close()
    await store.close()


@pytest.mark.parametrize("name", TABLE)
async def test_own(scene: Scene, name: str) -> None:
    """Each role has its rights on one's own jobs."""
    job = await scene.job(name)
    found = ""

    for right in Right:
        try:
            scene.access.check(name, right)
        except PermissionDenied:
            found += "n"
        else:
            found += "y"
            assert scene.find(name, job.id, right) is job

    assert found == TABLE[name][0]
    assert scene.notes == []


@pytest.mark.parametrize("name", TABLE)
async def test_others(scene: Scene, name: str) -> None:
    """And on others' jobs, which are noted, granted or not."""
    job = await scene.job("bob")
    rights = [Right.SEE, Right.END, Right.REMOVE, Right.SEND]
    found = "".join(scene.outcome(name, job, right) for right in rights)

    assert found == TABLE[name][1][1:]
    assert [(note.event, note.job, note.owner) for note in scene.notes] == [
        ("access", job.id, "bob")
    ] * 4
    granted = {"y": "ok", "n": "permission_denied", "-": "job_not_found"}
    assert [note.result for note in scene.notes] == [granted[one] for one in found]
    assert {note.by for note in scene.notes} == {caller(name)}


async def test_again(scene: Scene) -> None:
    """The same look is noted once, and how often again; another one at once."""
    job = await scene.job("bob")

    for _ in range(5):
        scene.outcome("dash", job, Right.SEE)

    scene.outcome("oncall", job, Right.SEE)
    scene.outcome("dash", job, Right.END)
    scene.trail.flush()

    assert [
        (note.by and note.by.name, note.message, note.count) for note in scene.notes
    ] == [
        ("dash", "see", 1),
        ("oncall", "see", 1),
        ("dash", "end", 1),
        ("dash", "see", 4),
    ]


async def test_deny_comes_first(scene: Scene) -> None:
    """Who fits several lists has the first role in the order that is documented."""
    assert scene.access.role("ops-7") is Role.ADMIN
    assert scene.access.role("ops-evil") is Role.DENY
    assert scene.access.role("xops-7") is Role.USER
    assert scene.access.role("OPS-7") is Role.USER


async def test_default(scene: Scene) -> None:
    """Who fits no list has the default, which may be changed at any time."""
    scene.access.configure(AccessConfig(user=("alice",), default=Role.DENY))

    assert scene.access.role("alice") is Role.USER
    assert scene.access.role("bob") is Role.DENY


async def test_names_are_ones_own(scene: Scene) -> None:
    """A name means a job of one's own; another's is called by its id alone."""
    theirs = await scene.job("bob", "build")

    with pytest.raises(JobNotFound):
        scene.find("root", "build", Right.SEE)

    ours = await scene.job("root", "build")

    assert scene.find("root", "build", Right.END) is ours
    assert scene.find("root", theirs.id[:8], Right.END) is theirs


async def test_own_prefix_first(scene: Scene) -> None:
    """A prefix of one's own job is that job, whoever else has one that fits."""
    ours = await scene.job("root")

    assert scene.find("root", ours.id[:4], Right.END) is ours


async def test_short_prefix(scene: Scene) -> None:
    """Too little of an id is nobody's job, and nothing to note."""
    job = await scene.job("bob")

    with pytest.raises((JobNotFound, AmbiguousJob)):
        scene.find("alice", job.id[:3], Right.SEE)

    assert scene.notes == []


@pytest.mark.parametrize(
    ("name", "wanted", "found"),
    [
        ("alice", None, "alice"),
        ("alice", "alice", "alice"),
        ("alice", "bob", PermissionDenied),
        ("alice", EVERYBODY, PermissionDenied),
        ("mallory", None, PermissionDenied),
        ("dash", "bob", "bob"),
        ("dash", EVERYBODY, None),
        ("oncall", "nobody-knows", "nobody-knows"),
        ("root", EVERYBODY, None),
        ("root", None, "root"),
    ],
)
async def test_list(
    scene: Scene, name: str, wanted: str | None, found: str | type[RequestError] | None
) -> None:
    """Everybody lists their own jobs, and some those of others, which is noted."""
    if isinstance(found, type):
        with pytest.raises(found):
            scene.access.owner_to_list(caller(name), wanted)
    else:
        assert scene.access.owner_to_list(caller(name), wanted) == found

    is_others = wanted not in (None, name) and name != "mallory"
    assert bool(scene.notes) is is_others


async def test_list_of_everybody(scene: Scene) -> None:
    """A list of everybody's jobs has the newest first, and goes on after any."""
    jobs = [await scene.job(name) for name in ("a", "b", "c")]
    newest_first = [job.id for job in reversed(jobs)]

    everything = [status.id for status in scene.manager.list(owner=None)]
    rest = [
        status.id for status in scene.manager.list(owner=None, before=newest_first[0])
    ]

    assert everything == newest_first
    assert rest == newest_first[1:]


async def test_lists_of_nobody(scene: Scene) -> None:
    """Lists of owners whom nobody has made up are one look, and hide no other."""
    job = await scene.job("bob")

    for number in range(12_000):
        scene.access.owner_to_list(caller("dash"), f"x{number}")

    scene.find("dash", job.id, Right.SEE)

    assert [(note.message, note.owner) for note in scene.notes] == [
        ("list", None),
        ("see", "bob"),
    ]
