"""What jobs use: measured once for all who want it, and only then."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest

from teleworkerd.jobs.sampling import Sampler
from teleworkerd.protocol.errors import Unavailable
from teleworkerd.protocol.status import Usage
from tests.fakes import DEADLINE, FakeExecutor


ONE, TWO = Usage(cpu_seconds=1.0), Usage(cpu_seconds=2.0)


@pytest.fixture
def executor(tmp_path: Path) -> FakeExecutor:
    """Runs the jobs one and two."""
    executor = FakeExecutor(tmp_path)
    executor.usages = {"one": ONE, "two": TWO}
    return executor


@pytest.fixture
def sampler(executor: FakeExecutor) -> Sampler:
    """Measures them, at time 7."""
    return Sampler(executor, now=lambda: 7)


async def test_one_job(sampler: Sampler, executor: FakeExecutor) -> None:
    """Who asks for one job hears of it; of one that does not run, nothing."""
    assert await sampler.usage("one") == ONE
    assert await sampler.usage("three") is None
    assert executor.measured == [{"one"}, {"three"}]


async def test_many_who_ask_at_once(sampler: Sampler, executor: FakeExecutor) -> None:
    """What is asked for together is measured together."""
    found = await asyncio.gather(*map(sampler.usage, ["one", "two", "one"]))

    assert found == [ONE, TWO, ONE]
    assert executor.measured == [{"one", "two"}]


async def test_nobody_answers(
    sampler: Sampler, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the keeper is gone, or silent, there is no use to tell, and no error."""

    async def fail(_: object) -> None:
        raise Unavailable("the keeper is gone")

    monkeypatch.setattr(executor, "measure", fail)
    assert await sampler.usage("one") is None

    async def hang(_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(executor, "measure", hang)
    monkeypatch.setattr("teleworkerd.jobs.sampling._PATIENCE", 0.01)
    assert await sampler.usage("one") is None


async def test_watch(sampler: Sampler, executor: FakeExecutor) -> None:
    """A watcher gets the first sample at once, and others later."""
    async with asyncio.timeout(DEADLINE):
        with sampler.watch(lambda: ["one"], 0.01) as watch:
            first = await watch.next()
            second = await watch.next()

    assert (first.at, first.usages) == (7, {"one": ONE})
    assert second.usages == {"one": ONE}
    assert executor.measured[:2] == [{"one"}, {"one"}]


async def test_two_watchers(sampler: Sampler, executor: FakeExecutor) -> None:
    """Two who watch at the same pace cost one measurement, of all that they want."""
    async with asyncio.timeout(DEADLINE):
        with (
            sampler.watch(lambda: ["one"], 3600) as alice,
            sampler.watch(lambda: ["two"], 3600) as bob,
        ):
            await asyncio.gather(alice.next(), bob.next())

    assert executor.measured == [{"one", "two"}]


async def test_slow_watcher(sampler: Sampler, executor: FakeExecutor) -> None:
    """Who does not take samples finds the newest one; none is queued."""
    async with asyncio.timeout(DEADLINE):
        with (
            sampler.watch(lambda: ["one"], 0.001) as slow,
            sampler.watch(lambda: ["two"], 0.001) as quick,
        ):
            for _ in range(5):
                await quick.next()

            executor.usages["one"] = TWO

            while (await quick.next()).usages.get("one") != TWO:
                pass

            assert (await slow.next()).usages["one"] == TWO


async def test_nobody_watches(sampler: Sampler, executor: FakeExecutor) -> None:
    """When the last one has gone, nothing is measured any more."""
    before = asyncio.all_tasks()

    async with asyncio.timeout(DEADLINE):
        with sampler.watch(lambda: ["one"], 0.001) as watch:
            await watch.next()

        if left := asyncio.all_tasks() - before:
            await asyncio.wait(left)


async def test_others_have_turns(sampler: Sampler) -> None:
    """While it is seen what many watch, others go on."""
    seen = 0

    def wanted() -> list[str]:
        nonlocal seen
        seen += 1
        return ["one"]

    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(sampler.watch(wanted, 100.0))

        steps = []

        async with asyncio.timeout(DEADLINE):
            while seen < 20:
                before = seen
                await asyncio.sleep(0)
                steps.append(seen - before)

    assert max(steps) == 1
