"""The executor over its channel: starts, kept jobs, what is told of both."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from teleworkerd.execution import FailureRecord, LaunchError, LossRecord
from teleworkerd.executors.base import StartUnknown
from teleworkerd.executors.keeper_link import KeeperLink
from teleworkerd.executors.local import MAX_LAUNCHING
from teleworkerd.jobdir import JobDirectory
from teleworkerd.keeper.messages import (
    JobExited,
    JobFailed,
    JobGone,
    JobLaunched,
    JobLost,
    OutputDropped,
    OutputGrown,
    OutputHeldUp,
    Shutdown,
    Welcome,
)
from teleworkerd.keeper.orders import Launch, Ready, SignalJob, StopJob
from teleworkerd.output.gaps import pack_gap
from teleworkerd.protocol.errors import Unavailable
from teleworkerd.protocol.messages import Message
from teleworkerd.protocol.status import LaunchFailure
from teleworkerd.protocol.types import Gap, LaunchStage, Reason, Stream
from tests.executors.keeper import Peer, Sink, job
from tests.fakes import DEADLINE, EXITED, LAUNCHED, TRUE


FAILURE = LaunchFailure(LaunchStage.EXEC, 2, "no such program")
NOT_HELD_UP = ("held up", None)


async def test_start(link: KeeperLink, peer: Peer) -> None:
    """A start is answered by the keeper; what follows goes to the job's sink."""
    sink = Sink()
    start = asyncio.create_task(link.executor.start(job(), TRUE, sink))
    assert await peer.next() == Launch(job(), TRUE)
    peer.say(JobLaunched("job1", LAUNCHED), OutputGrown("job1", 1, 2))
    execution = await asyncio.wait_for(start, DEADLINE)
    execution.signal(2, tree=False)
    execution.stop(grace=None, reason=Reason.KILLED)

    assert await peer.next() == SignalJob("job1", 2, tree=False)
    assert await peer.next() == StopJob("job1", Reason.KILLED)
    peer.say(JobExited("job1", EXITED), Shutdown())
    await asyncio.wait_for(link.over.wait(), DEADLINE)
    assert sink.heard == [LAUNCHED, (1, 2), EXITED]


async def test_exit_with_the_launch(link: KeeperLink, peer: Peer) -> None:
    """A job may have ended by the time that its start returns."""
    sink = Sink()
    start = asyncio.create_task(link.executor.start(job(), TRUE, sink))
    await peer.next()
    peer.say(
        JobLaunched("job1", LAUNCHED),
        JobExited("job1", EXITED),
        OutputGrown("job1", 1, 2),
    )
    await asyncio.wait_for(start, DEADLINE)

    assert sink.heard == [LAUNCHED, EXITED]


async def test_failure(link: KeeperLink, peer: Peer) -> None:
    """A failed start raises what the keeper says of it."""
    start = asyncio.create_task(link.executor.start(job(), TRUE, Sink()))
    await peer.next()
    peer.say(JobFailed("job1", FAILURE, 9, "io"))

    with pytest.raises(LaunchError, match="no such program") as caught:
        await asyncio.wait_for(start, DEADLINE)

    assert (caught.value.failure, caught.value.limit) == (FAILURE, "io")


async def test_starts_wait_for_their_turn(link: KeeperLink, peer: Peer) -> None:
    """The keeper is given only so many launches at once."""
    starts = [
        asyncio.create_task(link.executor.start(job(number), TRUE, Sink()))
        for number in range(MAX_LAUNCHING + 1)
    ]

    for number in range(MAX_LAUNCHING):
        assert await peer.next() == Launch(job(number), TRUE)

    assert peer.messages.empty()
    peer.say(JobFailed("job0", FAILURE, 9))
    assert await peer.next() == Launch(job(MAX_LAUNCHING), TRUE)
    peer.channel.close()
    results = await asyncio.wait_for(
        asyncio.gather(*starts, return_exceptions=True), DEADLINE
    )
    assert [type(result) for result in results[1:]] == [StartUnknown] * MAX_LAUNCHING


async def test_keeper_goes_away(link: KeeperLink, peer: Peer) -> None:
    """Who waits for a keeper that dies hears of it, and so do all who come later."""
    start = asyncio.create_task(link.executor.start(job(), TRUE, Sink()))
    await peer.next()
    peer.channel.close()

    with pytest.raises(StartUnknown, match="went away"):
        await asyncio.wait_for(start, DEADLINE)

    with pytest.raises(Unavailable, match="is gone"):
        await link.executor.start(job(2), TRUE, Sink())

    assert link.gone.is_set()
    assert link.over.is_set()


@pytest.mark.parametrize(
    "response", [JobLaunched("job1", LAUNCHED), JobFailed("job1", FAILURE, 9)]
)
async def test_keeper_goes_away_with_its_answer(
    link: KeeperLink, peer: Peer, response: Message
) -> None:
    """A response and the end of the keeper may come in one turn of the loop."""
    executor = link.executor
    start = asyncio.create_task(executor.start(job(), TRUE, Sink()))
    other = asyncio.create_task(executor.start(job(2), TRUE, Sink()))
    await peer.next()
    await peer.next()
    executor.received(response)
    executor.disconnected()
    results = await asyncio.wait_for(
        asyncio.gather(start, other, return_exceptions=True), DEADLINE
    )

    assert not isinstance(results[0], StartUnknown)
    assert isinstance(results[1], StartUnknown)


@pytest.mark.parametrize(
    "response", [JobLaunched("job1", LAUNCHED), JobFailed("job1", FAILURE, 9)]
)
async def test_answer_after_the_caller_left(
    link: KeeperLink, peer: Peer, response: Message
) -> None:
    """A response that nobody waits for any more does no harm to the channel."""
    start = asyncio.create_task(link.executor.start(job(), TRUE, Sink()))
    await peer.next()
    start.cancel()
    await asyncio.wait([start])
    peer.say(response, Shutdown())
    await asyncio.wait_for(link.over.wait(), DEADLINE)

    assert not link.gone.is_set()


async def test_attach_running(link: KeeperLink, peer: Peer) -> None:
    """A kept job is found as it is now, not as it was at the welcome."""
    link.executor.received(OutputGrown("kept", 30, 40))
    sink = Sink()
    execution = link.executor.attach("kept", sink)
    link.executor.received(OutputGrown("kept", 31, 40))
    link.executor.received(JobExited("kept", EXITED))

    assert sink.heard == [LAUNCHED, (30, 40), NOT_HELD_UP, (31, 40), EXITED]
    assert execution is not None
    execution.signal(9, tree=True)
    assert await peer.next() == SignalJob("kept", 9, tree=True)


async def test_gaps_of_a_running_job(link: KeeperLink, welcome: Welcome) -> None:
    """What an earlier server was told of gaps stands in a file, up to the told end.

    Beyond that the file may say more than is going to be dropped.
    """
    directory = JobDirectory(welcome.config.jobs_dir / "kept")
    directory.create()
    gaps = [Gap(Stream.STDOUT, 5, 10), Gap(Stream.STDERR, 35, 60)]
    directory.gaps.write_bytes(b"".join(map(pack_gap, gaps)))
    link.executor.received(OutputGrown("kept", 30, 40))
    sink = Sink()
    link.executor.attach("kept", sink)

    assert sink.heard == [
        LAUNCHED,
        Gap(Stream.STDOUT, 5, 10),
        Gap(Stream.STDERR, 35, 40),
        (30, 40),
        NOT_HELD_UP,
    ]


async def test_news_of_output(link: KeeperLink, peer: Peer) -> None:
    """What was dropped, what there is and why it is held up comes in its order."""
    sink = Sink()
    start = asyncio.create_task(link.executor.start(job(), TRUE, sink))
    await peer.next()
    peer.say(
        JobLaunched("job1", LAUNCHED),
        OutputDropped("job1", Stream.STDERR, 5, 9),
        OutputGrown("job1", 1, 9),
        OutputHeldUp("job1", "the disk is full"),
        OutputHeldUp("job1"),
        Shutdown(),
    )
    await asyncio.wait_for(start, DEADLINE)
    await asyncio.wait_for(link.over.wait(), DEADLINE)

    assert sink.heard == [
        LAUNCHED,
        Gap(Stream.STDERR, 5, 9),
        (1, 9),
        ("held up", "the disk is full"),
        NOT_HELD_UP,
    ]


def test_attach_held_up(link: KeeperLink) -> None:
    """A kept job that is held up is found so; its gaps stand in its directory."""
    link.executor.received(OutputDropped("kept", Stream.STDOUT, 10, 20))
    link.executor.received(OutputGrown("kept", 20, 20))
    link.executor.received(OutputHeldUp("kept", "the disk is full"))
    sink = Sink()
    link.executor.attach("kept", sink)
    link.executor.received(OutputDropped("kept", Stream.STDOUT, 20, 30))

    assert sink.heard == [
        LAUNCHED,
        (20, 20),
        ("held up", "the disk is full"),
        Gap(Stream.STDOUT, 20, 30),
    ]


def test_strangers_are_passed_over(link: KeeperLink) -> None:
    """What is said of jobs that nobody asked for yet harms nothing."""
    link.executor.received(JobLaunched("stranger", LAUNCHED))
    link.executor.received(JobFailed("stranger", FAILURE, 9))
    link.executor.received(JobLost("stranger", "why"))
    link.executor.received(OutputGrown("stranger", 1, 2))
    link.executor.received(OutputDropped("stranger", Stream.STDOUT, 1, 2))
    link.executor.received(OutputHeldUp("stranger", "why"))
    link.executor.received(JobGone("stranger"))
    link.executor.received(JobGone("stranger", "why"))
    link.executor.received(JobExited("stranger", EXITED))

    with pytest.raises(AssertionError):
        link.executor.received(Ready())


async def test_attach_ended(link: KeeperLink, welcome: Welcome) -> None:
    """A job that ended meanwhile has its exit record on disk."""
    directory = JobDirectory(welcome.config.jobs_dir / "kept")
    directory.create()
    directory.write_exit(EXITED)
    link.executor.received(JobExited("kept", EXITED))
    sink = Sink()

    assert link.executor.attach("kept", sink) is None
    assert sink.heard == [EXITED]


async def test_attach_vanished(link: KeeperLink) -> None:
    """A job of which there is nothing any more is lost."""
    sink = Sink()

    assert link.executor.attach("unheard", sink) is None
    assert sink.heard == ["its directory is gone"]


async def test_attach_what_its_keeper_did_not_end(
    link: KeeperLink, welcome: Welcome
) -> None:
    """What is written down of a job without an end is told, and then why it is lost."""
    directory = JobDirectory(welcome.config.jobs_dir / "kept")
    directory.create()
    found = []
    steps: tuple[Callable[[], None], ...] = (
        lambda: None,
        lambda: directory.write_loss(LossRecord("its keeper was killed")),
        lambda: directory.write_launched(LAUNCHED),
    )

    for step in steps:
        step()
        sink = Sink()
        link.executor.received(JobExited("kept", EXITED))
        assert link.executor.attach("kept", sink) is None
        found.append(sink.heard)

    assert found == [
        ["its directory does not say what became of it"],
        ["its keeper was killed"],
        [LAUNCHED, "its keeper was killed"],
    ]


async def test_lost_during_its_start(link: KeeperLink, peer: Peer) -> None:
    """Of a command that ran and cannot be waited for the start is unknown."""
    sink = Sink()
    start = asyncio.create_task(link.executor.start(job(), TRUE, sink))
    await peer.next()
    peer.say(JobLost("job1", "it ran"))

    with pytest.raises(StartUnknown, match="it ran"):
        await asyncio.wait_for(start, DEADLINE)

    assert sink.heard == ["it ran"]


async def test_attach_what_is_to_be_over(link: KeeperLink) -> None:
    """That a job is to be over the keeper knows, whatever the server forgot."""
    sink = Sink()

    assert link.executor.attach("stopping", sink) is not None
    assert sink.heard == [LAUNCHED, "stop", (1, 2), NOT_HELD_UP]


async def test_attach_failed(link: KeeperLink, welcome: Welcome) -> None:
    """A job that never ran says why in its directory."""
    directory = JobDirectory(welcome.config.jobs_dir / "kept")
    directory.create()
    directory.write_failure(FailureRecord(FAILURE, 9))
    link.executor.received(JobExited("kept", EXITED))
    sink = Sink()

    assert link.executor.attach("kept", sink) is None
    assert sink.heard == [(FAILURE, 9)]


async def test_attach_with_less_than_was_told(
    link: KeeperLink, welcome: Welcome
) -> None:
    """What a power failure took from the end of a spool is a gap."""
    directory = JobDirectory(welcome.config.jobs_dir / "kept")
    directory.create()
    directory.spool(Stream.STDOUT).write_bytes(b"123")
    record = replace(EXITED, stdout=5, stderr=1)
    directory.write_exit(record)
    link.executor.received(JobExited("kept", record))
    sink = Sink()

    assert link.executor.attach("kept", sink) is None
    assert sink.heard == [Gap(Stream.STDOUT, 3, 5), Gap(Stream.STDERR, 0, 1), record]


async def test_kept_before_the_welcome(link: KeeperLink) -> None:
    """Jobs that are told of before the welcome are known as well as the rest."""
    sink = Sink()

    assert link.executor.attach("other", sink) is not None
    assert sink.heard == [LAUNCHED, (1, 2), NOT_HELD_UP]
