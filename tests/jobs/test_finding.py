"""Finding jobs: by id, name and prefix, in lists, and only one's own."""

import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from teleworkerd.config import Config
from teleworkerd.counters import Counters
from teleworkerd.jobs.manager import JobManager
from teleworkerd.protocol.errors import AmbiguousJob, JobNotFound
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.types import JobState
from teleworkerd.store import JobStore
from tests.fakes import Clock, FakeExecutor


IDS = [
    "abcdef00-0000-4000-8000-000000000001",
    "abcdef00-0000-4000-8000-000000000002",
    "abcd1100-0000-4000-8000-000000000003",
    "12345678-0000-4000-8000-000000000004",
]
NAMES = [None, "abcd1100", "web", "web2"]


@pytest_asyncio.fixture
async def manager(
    config: Config, executor: FakeExecutor, store: JobStore
) -> AsyncIterator[JobManager]:
    """Four jobs of alice, the first one ended; none of bob."""
    ids = iter(IDS)
    manager = JobManager(
        executor=executor,
        store=store,
        config=config,
        counters=Counters(),
        now=Clock(),
        new_id=lambda: uuid.UUID(next(ids)),
    )

    for number, name in enumerate(NAMES):
        labels = {"n": str(number), "odd": str(number % 2)}
        spec = JobSpec((b"true",), name=name, labels=labels)
        await manager.run(spec, owner="alice", request_id=str(number))

    executor.exit(IDS[0])
    yield manager
    manager.close()


@pytest.mark.parametrize(
    ("ref", "found"),
    [
        (IDS[0], 0),
        (IDS[0].upper(), 0),
        (IDS[0][:-1] + "2", 1),
        ("abcd1100", 1),  # a name goes before the prefix of another job's id
        ("abcd1100-", 2),
        ("ABCD11", 2),
        ("1234", 3),
        ("web", 2),
    ],
)
def test_found(manager: JobManager, ref: str, found: int) -> None:
    """A job is found by its id, else by its name, else by a prefix of its id."""
    assert manager.get(ref, owner="alice").id == IDS[found]


@pytest.mark.parametrize("ref", ["", "123", "we", "WEB", "abcdffff", IDS[3] + "0"])
def test_not_found(manager: JobManager, ref: str) -> None:
    """Too short a prefix, and what fits nothing, finds nothing."""
    with pytest.raises(JobNotFound, match="twctl list"):
        manager.get(ref, owner="alice")


def test_ambiguous(manager: JobManager) -> None:
    """A prefix of several jobs says which, newest first."""
    with pytest.raises(AmbiguousJob, match="fits 3 jobs") as caught:
        manager.get("abcd", owner="alice")

    assert caught.value.details == {"jobs": [IDS[2], IDS[1], IDS[0]]}


@pytest.mark.parametrize("ref", [IDS[3], "1234", "web", "abcd"])
def test_others_see_nothing(manager: JobManager, ref: str) -> None:
    """Somebody else's job is not found, however it is asked for."""
    with pytest.raises(JobNotFound) as caught:
        manager.get(ref, owner="bob")

    assert caught.value.details == {}
    assert list(manager.list(owner="bob")) == []


async def test_name_that_is_anothers_id(manager: JobManager) -> None:
    """An id of somebody else is still a fine name."""
    manager._new_id = uuid.uuid4
    spec = JobSpec((b"true",), name=IDS[3])
    job, _ = await manager.run(spec, owner="bob", request_id="1")

    assert manager.get(IDS[3], owner="bob") is job
    assert manager.get(IDS[3], owner="alice").id == IDS[3]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, [3, 2, 1, 0]),
        ({"states": (JobState.RUNNING,)}, [3, 2, 1]),
        ({"states": (JobState.FINISHED, JobState.LOST)}, [0]),
        ({"name": "web"}, [2]),
        ({"labels": {"odd": "1"}}, [3, 1]),
        ({"labels": {"odd": "1", "n": "3"}}, [3]),
        ({"labels": {"no": ""}}, []),
        ({"before": IDS[2]}, [1, 0]),
        ({"before": IDS[0]}, []),
        ({"before": IDS[3], "labels": {"odd": "1"}}, [1]),
    ],
)
def test_list(
    manager: JobManager, filters: dict[str, object], found: list[int]
) -> None:
    """A list has what fits all filters, newest first, after *before*."""
    jobs = manager.list(owner="alice", **filters)  # type: ignore[arg-type]  # one set of arguments each

    assert [job.id for job in jobs] == [IDS[number] for number in found]


@pytest.mark.parametrize("before", ["unknown", IDS[0][:8], IDS[3].replace("1", "a")])
def test_list_after_what_is_gone(manager: JobManager, before: str) -> None:
    """A page that was to follow a job which is no more is an error, not the end."""
    with pytest.raises(JobNotFound, match="list again") as caught:
        list(manager.list(owner="alice", before=before))

    assert caught.value.details == {"job": before}


def test_list_after_anothers_job(manager: JobManager) -> None:
    """Somebody else's job is not there to go on after."""
    with pytest.raises(JobNotFound, match="was removed"):
        list(manager.list(owner="bob", before=IDS[0]))


async def test_list_after_a_removal(manager: JobManager) -> None:
    """Between two pages their border is removed: the client is told to begin anew."""
    page = manager.list(owner="alice")
    newest = [next(page).id for _ in range(4)]
    await manager.remove(manager.get(newest[-1], owner="alice"))

    with pytest.raises(JobNotFound):
        list(manager.list(owner="alice", before=newest[-1]))

    rest = manager.list(owner="alice", before=newest[1])
    assert [job.id for job in rest] == [newest[2]]


def test_pages_make_the_whole(manager: JobManager) -> None:
    """Page by page, each from after the last, everything comes once."""
    found: list[str] = []

    while job := next(
        manager.list(owner="alice", before=found[-1] if found else None), None
    ):
        found.append(job.id)

    assert found == IDS[::-1]


def test_counts(manager: JobManager) -> None:
    """Every state is counted, and those without jobs are zero."""
    counts = manager.counts()

    assert set(counts) == set(JobState)
    assert counts["running"] == 3
    assert counts["finished"] == 1
    assert sum(counts.values()) == 4
