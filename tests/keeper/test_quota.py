"""Limits on what is kept: exact to the byte, of a job, of an owner, and of all."""

import asyncio
import random
from pathlib import Path

import pytest

from teleworkerd.execution import LaunchError
from teleworkerd.keeper.messages import OutputHeldUp
from teleworkerd.keeper.quota import Bound, limit_of
from teleworkerd.protocol.spec import JobSpec
from teleworkerd.protocol.types import OnFull, Stream
from teleworkerd.settings import OutputConfig
from tests.keeper.moving import PIPE, Moving, quota_of, rest, until


OUT, ERR = Stream
LIMIT = 100_000


@pytest.mark.parametrize("on_full", OnFull)
@pytest.mark.parametrize("size", [0, 1, LIMIT - 1, LIMIT])
def test_up_to_a_limit(tmp_path: Path, on_full: OnFull, size: int) -> None:
    """Who stays within a limit, by a byte or exactly, does not notice it."""

    async def scenario() -> None:
        moving = Moving(tmp_path / "job", limit=LIMIT, on_full=on_full)
        await moving.say(bytes(size))
        await rest()

        assert moving.held_up is None

        await moving.end()

        assert (moving.kept, moving.dropped, moving.exceeded) == (size, 0, [])

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(3))
def test_both_streams_together(tmp_path: Path, seed: int) -> None:
    """A job's limit is for its two streams together, in whatever pieces they come."""
    chance = random.Random(seed)

    async def scenario() -> None:
        moving = Moving(tmp_path / "job", limit=LIMIT, on_full=OnFull.DROP)

        while sum(map(len, moving.written.values())) < 2 * LIMIT:
            data = chance.randbytes(chance.randint(1, 9000))
            await moving.write(data, chance.choice([OUT, ERR]))

        await moving.end()

        assert moving.kept == LIMIT

    asyncio.run(scenario())


def test_block_at_a_limit(tmp_path: Path) -> None:
    """One byte beyond its own limit, a job is held up, and the loop rests."""

    async def scenario() -> None:
        moving = Moving(tmp_path / "job", limit=1 << 20)
        await moving.say(bytes(1 << 20))
        await moving.write(b"x")
        await until(lambda: moving.held_up)

        assert moving.kept == 1 << 20
        assert moving.told[-1] == OutputHeldUp("job", moving.held_up)
        assert moving.held_up == (
            "the job's output limit of 1 MiB is reached: it can only be killed"
        )
        assert not asyncio.get_running_loop().remove_reader(moving.spool()._pipe)

        moving.discard()

    asyncio.run(scenario())


def test_two_jobs_of_one_owner(tmp_path: Path) -> None:
    """An owner's jobs share what he has; when one is removed, the other goes on."""

    async def scenario() -> None:
        quota = quota_of(owner=LIMIT)
        first = Moving(tmp_path / "first", quota=quota)
        second = Moving(tmp_path / "second", quota=quota)
        other = Moving(tmp_path / "other", quota=quota, owner="bob")
        await first.say(bytes(LIMIT - 10))
        await second.write(b"y" * 20)
        await other.say(bytes(LIMIT))
        await until(lambda: second.held_up)

        assert second.kept == 10
        assert second.held_up == (
            f"alice's {LIMIT} bytes of output are used up: remove jobs with twctl rm"
        )

        await first.end()
        quota.remove("first")
        await until(second.is_quiet)

        assert second.kept == 20
        assert [
            held.why is None for held in second.told if isinstance(held, OutputHeldUp)
        ] == [False, True]

        await second.end()
        await other.end()

    asyncio.run(scenario())


def test_total_of_two_owners(tmp_path: Path) -> None:
    """The total limit is for everybody together."""

    async def scenario() -> None:
        quota = quota_of(owner=LIMIT, total=LIMIT + 5)
        alice = Moving(tmp_path / "alice", quota=quota)
        bob = Moving(tmp_path / "bob", quota=quota, owner="bob")
        await alice.say(bytes(LIMIT))
        await bob.write(bytes(10))
        await until(lambda: bob.held_up)

        assert bob.kept == 5
        assert str(bob.held_up).startswith("the server's 100005 bytes of output are")

        bob.spools.give_up(Bound.SHARED)
        await until(bob.is_quiet)
        await alice.end()
        await bob.end()

        assert (bob.kept, bob.gaps()) == (5, [(5, 10)])

    asyncio.run(scenario())


def test_has_waited(tmp_path: Path) -> None:
    """That output had to wait is known while it does, and once after that."""

    async def scenario() -> None:
        quota = quota_of(owner=10)
        moving = Moving(tmp_path / "job", quota=quota)
        await moving.say(bytes(10))
        assert not moving.spools.has_waited()

        await moving.write(bytes(10))
        await until(lambda: moving.held_up)
        assert [moving.spools.has_waited() for _ in range(3)] == [True] * 3

        quota.configure(OutputConfig(owner_limit=20))
        await until(moving.is_quiet)
        assert [moving.spools.has_waited() for _ in range(2)] == [True, False]
        await moving.end()

    asyncio.run(scenario())


def test_much_that_waits(tmp_path: Path) -> None:
    """Many jobs that wait share the room that comes, to the last byte."""

    async def scenario() -> None:
        quota = quota_of(owner=2 * LIMIT)
        big = Moving(tmp_path / "big", quota=quota)
        await big.say(bytes(2 * LIMIT))
        waiting = [Moving(tmp_path / f"{n}", quota=quota) for n in range(20)]

        for moving in waiting:
            await moving.write(bytes(2 * LIMIT // 20 + 1))

        await until(lambda: all(moving.held_up for moving in waiting))
        await big.end()
        quota.remove("big")
        await until(
            lambda: (
                sum(moving.kept for moving in waiting) == 2 * LIMIT
                and any(moving.held_up for moving in waiting)
            )
        )
        await rest()
        late = [moving for moving in waiting if moving.held_up]

        assert sum(len(moving.written[OUT]) - moving.kept for moving in late) == 20

        for moving in late:
            moving.spools.give_up(Bound.SHARED)

        for moving in waiting:
            await moving.end()

    asyncio.run(scenario())


def test_limits_that_change(tmp_path: Path) -> None:
    """Owner and total limits are used as they are now; one below what is kept is 0."""

    async def scenario() -> None:
        quota = quota_of(owner=10, total=100)
        moving = Moving(tmp_path / "job", quota=quota)
        await moving.write(bytes(30))
        await until(lambda: moving.held_up)

        quota.configure(OutputConfig(owner_limit=25, total_limit=20))
        await until(lambda: moving.held_up and "server's 20" in moving.held_up)
        assert moving.kept == 20

        quota.configure(OutputConfig(owner_limit=5, total_limit=0))
        await rest()
        assert (moving.share.room(), moving.kept) == (0, 20)

        quota.configure(OutputConfig(owner_limit=0, total_limit=0))
        await until(moving.is_quiet)
        await moving.end()

        assert moving.kept == 30

    asyncio.run(scenario())


def test_drop_beyond_a_limit(tmp_path: Path) -> None:
    """What is dropped has its offsets; what is kept later stands at its own."""

    async def scenario() -> None:
        quota = quota_of(owner=10)
        quota.add("other", "alice").take(6)
        moving = Moving(tmp_path / "job", quota=quota, on_full=OnFull.DROP)
        await moving.say(b"abcdefgh")
        quota.remove("other")
        await moving.say(b"ijklmnop")
        await moving.end()

        assert moving.gaps() == [(4, 8), (14, 16)]
        assert moving.output() == b"abcd\0\0\0\0ijklmn"
        assert (moving.kept, moving.dropped) == (10, 6)

    asyncio.run(scenario())


@pytest.mark.parametrize("limit", [0, 1, PIPE - 1, PIPE, PIPE + 1])
def test_drop_without_end(tmp_path: Path, limit: int) -> None:
    """A job that goes on far beyond its limit never waits."""

    async def scenario() -> None:
        moving = Moving(tmp_path / "job", limit=limit, on_full=OnFull.DROP)
        await moving.write(random.Random(limit).randbytes(20 * PIPE))
        await moving.end()

        assert moving.kept == limit
        assert moving.gaps() == [(limit, 20 * PIPE)]

    asyncio.run(scenario())


def test_kill_beyond_a_limit(tmp_path: Path) -> None:
    """The watcher is told once, with the limit; the rest is dropped."""

    async def scenario() -> None:
        moving = Moving(tmp_path / "job", limit=1024, on_full=OnFull.KILL)
        await moving.write(bytes(3 * PIPE))
        await moving.write(bytes(3 * PIPE), ERR)
        await moving.end()

        assert moving.exceeded == ["the job's output limit of 1 KiB is reached"]
        assert moving.kept == 1024

    asyncio.run(scenario())


def test_job_that_is_over(tmp_path: Path) -> None:
    """At the end of a job, what its own limit has no room for is dropped."""

    async def scenario() -> None:
        moving = Moving(tmp_path / "job", limit=10)
        await moving.write(bytes(30))
        await until(lambda: moving.held_up)
        await moving.write(bytes(7), ERR)
        moving.spools.give_up(Bound.JOB)
        await moving.end()

        assert (moving.gaps(), moving.gaps(ERR)) == ([(10, 30)], [(0, 7)])

    asyncio.run(scenario())


def test_shared_limit_at_the_end(tmp_path: Path) -> None:
    """For room that others may make the end waits, until it is given up."""

    async def scenario() -> None:
        moving = Moving(tmp_path / "job", quota=quota_of(owner=10))
        await moving.write(bytes(30))
        moving.hang_up()
        await until(lambda: moving.held_up)
        moving.spools.give_up(Bound.JOB)
        await rest()
        assert moving.held_up

        moving.spools.give_up(Bound.SHARED)
        await moving.end()

        assert moving.gaps() == [(10, 30)]

    asyncio.run(scenario())


@pytest.mark.parametrize("on_full", OnFull)
def test_end_at_a_limit(tmp_path: Path, on_full: OnFull) -> None:
    """The end of a pipe that has nothing more is seen where there is no room."""

    async def scenario() -> None:
        moving = Moving(tmp_path / "job", limit=10, on_full=on_full)
        await moving.say(bytes(10))
        moving.hang_up()
        await moving.end()

        assert moving.exceeded == []

    asyncio.run(scenario())


def test_nothing_given_back_twice() -> None:
    """A share is given back once, however often that is asked for."""
    quota = quota_of(owner=10, total=10)
    quota.add("one", "alice").take(4)
    rest = quota.add("two", "alice")

    quota.remove("one")
    quota.remove("one")
    quota.remove("unknown")

    assert rest.room() == 10


def test_unknown_owner() -> None:
    """What nobody owns counts in total alone."""
    quota = quota_of(owner=10, total=15)
    quota.add("one", None).take(8)

    assert quota.add("two", "alice").room() == 7


@pytest.mark.parametrize(
    ("asked", "allowed", "limit"),
    [
        (None, 0, None),
        (None, 7, 7),
        (5, 0, 5),
        (5, 7, 5),
        (7, 7, 7),
        (0, 7, 0),
        (0, 0, 0),
    ],
)
def test_limit_of_a_job(asked: int | None, allowed: int, limit: int | None) -> None:
    """A job's own limit counts before the server's; its 0 keeps nothing at all."""
    spec = JobSpec((b"x",), output_limit=asked)

    assert limit_of(spec, OutputConfig(job_limit=allowed)) == limit


def test_limit_that_is_not_allowed() -> None:
    """More than the server keeps of a job is refused, with both figures."""
    spec = JobSpec((b"x",), output_limit=3 << 30)

    with pytest.raises(LaunchError, match=r"3 GiB is more than the 2 GiB") as caught:
        limit_of(spec, OutputConfig(job_limit=2 << 30))

    assert caught.value.limit == "output_limit"
