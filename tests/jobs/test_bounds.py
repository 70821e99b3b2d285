"""What one owner may have at most: jobs that run, jobs that are kept, starts."""

import asyncio
from dataclasses import replace

import pytest

from teleworkerd.config import Config
from teleworkerd.counters import Counters
from teleworkerd.jobs.bounds import OwnerBounds
from teleworkerd.jobs.manager import JobManager
from teleworkerd.protocol.errors import LaunchFailed, NameTaken, TooMany
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.types import LaunchStage
from teleworkerd.settings import AccessConfig, ClientsConfig, LimitsConfig
from teleworkerd.store import JobStore
from tests.fakes import DEADLINE, LAUNCHED, TRUE, FakeExecutor
from tests.jobs.test_running import NAMED, failure


def bound(manager: JobManager, config: Config, **settings: float) -> None:
    """Let the manager have these bounds, as a reload does."""
    clients = replace(config.clients, **settings)  # type: ignore[arg-type]  # names are the caller's
    manager.configure(replace(config, clients=clients))


async def start(manager: JobManager, request: str, owner: str = "alice") -> str:
    """Start a job; return its id."""
    job, _ = await manager.run(TRUE, owner=owner, request_id=request)
    return job.id


async def refusal(manager: JobManager, request: str) -> TooMany:
    """Return with what alice's next job is refused."""
    with pytest.raises(TooMany) as caught:
        await manager.run(TRUE, owner="alice", request_id=request)

    return caught.value


async def test_running_jobs(
    manager: JobManager, executor: FakeExecutor, config: Config
) -> None:
    """So many jobs may run; with one less there is room. Others have their own."""
    bound(manager, config, running_jobs=2)
    first = await start(manager, "1")
    await start(manager, "2")
    error = await refusal(manager, "3")
    await start(manager, "3", owner="bob")
    executor.exit(first)
    await asyncio.wait_for(manager.get(first, owner="alice").wait(), DEADLINE)
    await start(manager, "3")

    assert error.details == {"what": "running_jobs", "most": 2}
    assert "twctl stop" in error.message
    assert "alice has as many running jobs as one name may, 2;" in error.message


async def test_jobs_that_are_starting(
    manager: JobManager, executor: FakeExecutor, config: Config
) -> None:
    """A job counts from its request on, so that requests at once are no way around."""
    bound(manager, config, running_jobs=3)
    executor.gate.clear()
    starts = [asyncio.create_task(start(manager, str(n))) for n in range(10)]
    await asyncio.sleep(0)
    executor.gate.set()
    results = await asyncio.gather(*starts, return_exceptions=True)

    assert sum(isinstance(one, TooMany) for one in results) == 7
    assert len(executor.started) == 3


async def test_failed_starts_do_not_run(
    manager: JobManager, executor: FakeExecutor, config: Config
) -> None:
    """A job whose command never ran is not one that runs."""
    bound(manager, config, running_jobs=1)
    executor.error = failure(LaunchStage.EXEC)

    for request in ("1", "2"):
        with pytest.raises(LaunchFailed):
            await start(manager, request)


async def test_kept_jobs(
    manager: JobManager, executor: FakeExecutor, config: Config
) -> None:
    """So many jobs may be there, ended or not; to remove one makes room."""
    bound(manager, config, kept_jobs=2)
    executor.exits_at_once = True
    first, _ = [await start(manager, request) for request in ("1", "2")]
    error = await refusal(manager, "3")
    await start(manager, "3", owner="bob")
    await manager.remove(manager.get(first, owner="alice"))
    await start(manager, "3")

    assert error.details == {"what": "kept_jobs", "most": 2}
    assert "twctl rm" in error.message


async def test_kept_commands(
    manager: JobManager, executor: FakeExecutor, config: Config
) -> None:
    """The server holds the commands of a name, also of ended jobs, up to a size."""
    bound(manager, config, kept_commands=1 << 20)
    executor.exits_at_once = True
    large = JobSpec((b"echo", *[b"x" * 100_000] * 7))
    first, _ = await manager.run(large, owner="alice", request_id="1")

    with pytest.raises(TooMany) as refused:
        await manager.run(large, owner="alice", request_id="2")

    await manager.run(large, owner="bob", request_id="2")
    await manager.remove(first)
    await manager.run(large, owner="alice", request_id="2")

    assert refused.value.details == {"what": "kept_commands", "most": 1 << 20}
    assert "would have 1400008 bytes" in refused.value.message


async def test_the_same_request_again(
    manager: JobManager, executor: FakeExecutor, config: Config
) -> None:
    """Who asks for a job that is there gets it, whatever the bounds."""
    bound(manager, config, running_jobs=1, kept_jobs=1, start_rate=0.001, start_burst=1)
    first = await start(manager, "1")

    for _ in range(5):
        assert await start(manager, "1") == first


async def test_start_rate(manager: JobManager, config: Config) -> None:
    """Beyond the burst a start is refused, with the time after which to try again."""
    bound(manager, config, start_rate=0.25, start_burst=2)
    await start(manager, "1")
    await start(manager, "2")
    error = await refusal(manager, "3")
    await start(manager, "3", owner="bob")

    assert error.details == {"what": "starts", "most": 1, "retry_after": 4}
    assert "more than 0.25 jobs a second" in error.message
    assert "try again in 4 s" in error.message


async def test_rate_of_what_is_refused(
    manager: JobManager, executor: FakeExecutor, config: Config
) -> None:
    """Only what is started counts."""
    bound(manager, config, start_rate=0.25, start_burst=2)
    await manager.run(NAMED, owner="alice", request_id="1")

    for _ in range(5):
        with pytest.raises(NameTaken):
            await manager.run(NAMED, owner="alice", request_id="2")

    await start(manager, "3")


async def test_no_rate(manager: JobManager, config: Config) -> None:
    """Without a rate jobs are started as they come."""
    bound(manager, config, start_rate=0, start_burst=1)

    for number in range(20):
        await start(manager, str(number))


async def test_reload(manager: JobManager, config: Config) -> None:
    """Bounds may be lowered and raised while jobs run, and those go on."""
    await start(manager, "1")
    await start(manager, "2")
    bound(manager, config, running_jobs=1)
    await refusal(manager, "3")
    bound(manager, config, running_jobs=3)
    await start(manager, "3")


async def test_reload_of_something_else(manager: JobManager, config: Config) -> None:
    """A reload that leaves the rate as it is gives nobody a new burst."""
    bound(manager, config, start_rate=0.25, start_burst=1)
    await start(manager, "1")
    bound(manager, config, start_rate=0.25, start_burst=1, running_jobs=5)
    await refusal(manager, "2")
    bound(manager, config, start_rate=0.25, start_burst=2)
    await start(manager, "2")


async def test_admins_are_bounded_too(manager: JobManager, config: Config) -> None:
    """A role is no reason to have more jobs."""
    config = replace(config, access=AccessConfig(admin=("alice",)))
    bound(manager, config, running_jobs=1)
    await start(manager, "1")

    await refusal(manager, "2")


async def test_jobs_of_an_earlier_server(
    manager: JobManager, executor: FakeExecutor, config: Config, store: JobStore
) -> None:
    """Jobs that were there before count, as long as they run."""
    first, second = [await start(manager, request) for request in ("1", "2")]
    executor.exit(first)
    await asyncio.wait_for(manager.get(first, owner="alice").wait(), DEADLINE)
    for job in manager:
        await store.save(job.record)

    executor.known[second] = LAUNCHED
    later = JobManager(
        executor=executor, store=store, config=config, counters=Counters()
    )
    await later.load()
    bound(later, config, running_jobs=1)
    await refusal(later, "3")
    bound(later, config, running_jobs=2, kept_jobs=2)
    error = await refusal(later, "3")
    later.close()

    assert error.details["what"] == "kept_jobs"


class Time:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rate_comes_back() -> None:
    """After the time that the refusal names, a start is allowed again."""
    clock = Time()
    bounds = OwnerBounds(
        ClientsConfig(start_rate=2.0, start_burst=3), LimitsConfig(), clock=clock
    )

    for _ in range(3):
        bounds.start("alice")

    with pytest.raises(TooMany) as caught:
        bounds.start("alice")

    assert caught.value.details == {"what": "starts", "most": 2, "retry_after": 1}
    clock.now += 1

    for _ in range(2):
        bounds.start("alice")

    with pytest.raises(TooMany):
        bounds.start("alice")


def test_owners_who_start_nothing_are_forgotten() -> None:
    """There may be any number of names; nothing is kept of those who are quiet."""
    clock = Time()
    bounds = OwnerBounds(
        ClientsConfig(start_rate=1.0, start_burst=1), LimitsConfig(), clock=clock
    )

    for number in range(3000):
        bounds.start(f"user-{number}")
        clock.now += 0.01

    assert len(bounds._buckets) <= 1025

    with pytest.raises(TooMany):
        bounds.start("user-2999")
