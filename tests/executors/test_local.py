"""The executor over its channel, with the test in the keeper's place."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from teleworkerd.config import Config, DaemonConfig
from teleworkerd.execution import ExitRecord, JobIdentity, Launched, LaunchError
from teleworkerd.executors import keeper_link
from teleworkerd.executors.keeper_link import KeeperGone, KeeperLink
from teleworkerd.executors.local import MAX_LAUNCHING, LocalExecutor
from teleworkerd.jobdir import JobDirectory
from teleworkerd.keeper.channel import Channel
from teleworkerd.keeper.messages import (
    FROM_SERVER,
    JobExited,
    JobFailed,
    JobLaunched,
    KeptJob,
    KeptJobs,
    Launch,
    OutputGrown,
    Ready,
    Reload,
    Shutdown,
    SignalJob,
    StopJob,
    Welcome,
)
from teleworkerd.protocol.errors import Unavailable
from teleworkerd.protocol.messages import Message
from teleworkerd.protocol.types import LaunchFailure, LaunchStage, Reason
from tests.fakes import DEADLINE, EXITED, LAUNCHED, TRUE


FAILURE = LaunchFailure(LaunchStage.EXEC, 2, "no such program")


def job(number: int = 1) -> JobIdentity:
    """Return an identity."""
    return JobIdentity(f"job{number}", "alice", f"request{number}", 1)


class Sink:
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def launched(self, launched: Launched) -> None:
        """Note it."""
        self.heard.append(launched)

    def output_grown(self, stdout: int, stderr: int) -> None:
        """Note it."""
        self.heard.append((stdout, stderr))

    def exited(self, record: ExitRecord) -> None:
        """Note it."""
        self.heard.append(record)

    def vanished(self, message: str) -> None:
        """Note it."""
        self.heard.append(message)


class Peer:
    """The keeper's end: what has come, and the means to answer."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Message | None] = asyncio.Queue()
        self.channel = Channel(
            FROM_SERVER,
            received=self.messages.put_nowait,
            closed=lambda: self.messages.put_nowait(None),
        )

    async def next(self) -> Message | None:
        """Return the next message; None at the end."""
        return await asyncio.wait_for(self.messages.get(), DEADLINE)

    def say(self, *messages: Message) -> None:
        """Send *messages*."""
        for message in messages:
            self.channel.send(message)


@pytest_asyncio.fixture
async def sockets() -> AsyncIterator[tuple[socket.socket, socket.socket]]:
    """A socket pair; its ends are closed by who takes them."""
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest_asyncio.fixture
async def peer(
    sockets: tuple[socket.socket, socket.socket],
) -> AsyncIterator[Peer]:
    """The keeper's end, connected."""
    peer = Peer()
    await peer.channel.open(sockets[1])
    yield peer
    peer.channel.close()


@pytest.fixture
def welcome(tmp_path: Path) -> Welcome:
    """What the keeper says first: one job runs already."""
    config = Config(DaemonConfig(state_dir=str(tmp_path)))
    config.jobs_dir.mkdir()
    return Welcome(
        config=config,
        cgroups="none",
        limits={},
        jobs=(KeptJob("kept", LAUNCHED, 10, 20),),
    )


@pytest_asyncio.fixture
async def link(
    sockets: tuple[socket.socket, socket.socket], peer: Peer, welcome: Welcome
) -> AsyncIterator[KeeperLink]:
    """The server's end, welcomed."""
    link = KeeperLink()
    peer.say(KeptJobs((KeptJob("other", LAUNCHED, 1, 2),)), welcome)
    assert await link.welcome(sockets[0]) == welcome
    yield link
    link.close()
    # Both ends say so before the sockets are closed under them.
    await asyncio.wait_for(link.over.wait(), DEADLINE)


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
    peer.say(JobFailed("job1", FAILURE, "io"))

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
    peer.say(JobFailed("job0", FAILURE))
    assert await peer.next() == Launch(job(MAX_LAUNCHING), TRUE)
    peer.channel.close()
    results = await asyncio.wait_for(
        asyncio.gather(*starts, return_exceptions=True), DEADLINE
    )
    assert [type(result) for result in results[1:]] == [Unavailable] * MAX_LAUNCHING


async def test_keeper_goes_away(link: KeeperLink, peer: Peer) -> None:
    """Who waits for a keeper that dies hears of it, and so do all who come later."""
    start = asyncio.create_task(link.executor.start(job(), TRUE, Sink()))
    await peer.next()
    peer.channel.close()

    with pytest.raises(Unavailable, match="went away"):
        await asyncio.wait_for(start, DEADLINE)

    with pytest.raises(Unavailable, match="is gone"):
        await link.executor.start(job(2), TRUE, Sink())

    assert link.gone.is_set()
    assert link.over.is_set()


@pytest.mark.parametrize(
    "response", [JobLaunched("job1", LAUNCHED), JobFailed("job1", FAILURE)]
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

    assert not isinstance(results[0], Unavailable)
    assert isinstance(results[1], Unavailable)


@pytest.mark.parametrize(
    "response", [JobLaunched("job1", LAUNCHED), JobFailed("job1", FAILURE)]
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

    assert sink.heard == [LAUNCHED, (30, 40), (31, 40), EXITED]
    assert execution is not None
    execution.signal(9, tree=True)
    assert await peer.next() == SignalJob("kept", 9, tree=True)


async def test_attach_launched_meanwhile(link: KeeperLink) -> None:
    """A launch that an earlier server ordered, told to this one, is found."""
    link.executor.received(JobLaunched("late", LAUNCHED))
    link.executor.received(OutputGrown("late", 3, 4))
    sink = Sink()

    assert link.executor.attach("late", sink) is not None
    assert sink.heard == [LAUNCHED, (3, 4)]


def test_strangers_are_passed_over(link: KeeperLink) -> None:
    """What is said of jobs that nobody asked for yet harms nothing."""
    link.executor.received(JobFailed("stranger", FAILURE))
    link.executor.received(OutputGrown("stranger", 1, 2))
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
    """A job without an exit record that the keeper does not know is lost."""
    sink = Sink()

    assert link.executor.attach("unheard", sink) is None
    assert sink.heard == [
        "it ran under an earlier keeper, and left no exit record",
    ]


async def test_kept_before_the_welcome(link: KeeperLink) -> None:
    """Jobs that are told of before the welcome are known as well as the rest."""
    sink = Sink()

    assert link.executor.attach("other", sink) is not None
    assert sink.heard == [LAUNCHED, (1, 2)]


async def test_reload(link: KeeperLink, peer: Peer, welcome: Welcome) -> None:
    """A new configuration goes to who wants it."""
    found: asyncio.Queue[Config] = asyncio.Queue()
    link.reloaded = found.put_nowait
    peer.say(Reload(welcome.config))

    assert await asyncio.wait_for(found.get(), DEADLINE) == welcome.config


async def test_reload_that_nobody_wants(link: KeeperLink, peer: Peer) -> None:
    """A new configuration that comes too early is passed over."""
    peer.say(Reload(Config()), Shutdown())
    await asyncio.wait_for(link.over.wait(), DEADLINE)

    assert not link.gone.is_set()


async def test_ready(link: KeeperLink, peer: Peer) -> None:
    """The keeper is told that clients may come."""
    link.ready()

    assert await peer.next() == Ready()


async def test_keeper_that_never_was(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    """A keeper that ends before its welcome is an error at once."""
    sockets[1].close()
    link = KeeperLink()

    with pytest.raises(KeeperGone):
        await asyncio.wait_for(link.welcome(sockets[0]), DEADLINE)


async def test_keeper_that_says_nothing(
    sockets: tuple[socket.socket, socket.socket],
    peer: Peer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A keeper that hangs is given up, in order."""
    monkeypatch.setattr(keeper_link, "WELCOME_TIMEOUT", 0.01)
    link = KeeperLink()

    with pytest.raises(KeeperGone, match="said nothing"):
        await link.welcome(sockets[0])

    link.close()
    assert await peer.next() is None
    await asyncio.wait_for(link.over.wait(), DEADLINE)
    assert caplog.text == ""


async def test_late_welcome(
    sockets: tuple[socket.socket, socket.socket],
    peer: Peer,
    welcome: Welcome,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A welcome that comes too late harms nothing."""
    monkeypatch.setattr(keeper_link, "WELCOME_TIMEOUT", 0.01)
    link = KeeperLink()

    with pytest.raises(KeeperGone):
        await link.welcome(sockets[0])

    peer.say(welcome, Shutdown())
    await asyncio.wait_for(link.over.wait(), DEADLINE)

    assert isinstance(link.executor, LocalExecutor)
    link.close()
    assert await peer.next() is None
