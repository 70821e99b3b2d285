"""What the executor has the keeper do with jobs that are over."""

import asyncio

import pytest

from teleworkerd.execution import Postscript
from teleworkerd.executors.keeper_link import KeeperLink
from teleworkerd.keeper.messages import JobGone, JobSealed, Shutdown
from teleworkerd.keeper.orders import RemoveJob, SealJob
from teleworkerd.protocol.errors import Unavailable
from tests.executors.keeper import Peer
from tests.fakes import DEADLINE


@pytest.mark.parametrize(
    "postscript", [Postscript("aa", "bb"), Postscript(stopped=True), Postscript()]
)
async def test_seal(link: KeeperLink, peer: Peer, postscript: Postscript) -> None:
    """What was found out is passed on, and the answer is waited for."""
    seal = asyncio.create_task(link.executor.seal("job1", postscript))
    assert await peer.next() == SealJob("job1", postscript)
    assert not seal.done()
    peer.say(JobGone("job1"), JobSealed("another"), JobSealed("job1"))

    await asyncio.wait_for(seal, DEADLINE)


async def test_seal_that_fails(link: KeeperLink, peer: Peer) -> None:
    """Why the keeper cannot seal a job is passed on."""
    seal = asyncio.create_task(link.executor.seal("job1", Postscript()))
    await peer.next()
    peer.say(JobSealed("job1", "it has no exit record"))

    with pytest.raises(Unavailable, match="job job1 stays as it is: it has no exit"):
        await asyncio.wait_for(seal, DEADLINE)


async def test_seal_without_keeper(link: KeeperLink, peer: Peer) -> None:
    """Without a keeper nothing can be sealed: the next server does it."""
    peer.channel.close()
    await asyncio.wait_for(link.over.wait(), DEADLINE)

    with pytest.raises(Unavailable, match="the keeper is gone"):
        await link.executor.seal("job1", Postscript())


async def test_remove(link: KeeperLink, peer: Peer) -> None:
    """A removal is over when the keeper says so."""
    removal = asyncio.create_task(link.executor.remove("job1"))
    assert await peer.next() == RemoveJob("job1")
    assert not removal.done()
    peer.say(JobGone("another"), JobGone("job1"))

    await asyncio.wait_for(removal, DEADLINE)


async def test_keeper_refuses(link: KeeperLink, peer: Peer) -> None:
    """Why the keeper cannot remove a job is passed on; it can be asked again."""
    removal = asyncio.create_task(link.executor.remove("job1"))
    await peer.next()
    peer.say(JobGone("job1", "the disk is read-only"))

    with pytest.raises(Unavailable, match="job job1 stays as it is: the disk"):
        await asyncio.wait_for(removal, DEADLINE)

    again = asyncio.create_task(link.executor.remove("job1"))
    assert await peer.next() == RemoveJob("job1")
    peer.say(JobGone("job1"))
    await asyncio.wait_for(again, DEADLINE)


async def test_asked_twice(link: KeeperLink, peer: Peer) -> None:
    """Two who remove one job ask once, and one may leave without the other."""
    leaver, stayer = (
        asyncio.create_task(link.executor.remove("job1")) for _ in range(2)
    )
    assert await peer.next() == RemoveJob("job1")
    leaver.cancel()
    await asyncio.wait([leaver])
    peer.say(JobGone("job1"))
    await asyncio.wait_for(stayer, DEADLINE)

    assert leaver.cancelled()
    assert peer.messages.empty()


async def test_nobody_waits_any_more(
    link: KeeperLink, peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    """A refusal that nobody waits for makes no noise."""
    removal = asyncio.create_task(link.executor.remove("job1"))
    await peer.next()
    removal.cancel()
    await asyncio.wait([removal])
    peer.say(JobGone("job1", "no"), Shutdown())
    await asyncio.wait_for(link.over.wait(), DEADLINE)

    assert caplog.text == ""


async def test_keeper_goes_away(link: KeeperLink, peer: Peer) -> None:
    """Who waits for a keeper that dies hears of it, and so do all who come later."""
    removal = asyncio.create_task(link.executor.remove("job1"))
    await peer.next()
    peer.channel.close()

    with pytest.raises(Unavailable, match="went away"):
        await asyncio.wait_for(removal, DEADLINE)

    with pytest.raises(Unavailable, match="is gone"):
        await link.executor.remove("job2")
