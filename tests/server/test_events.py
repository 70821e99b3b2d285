"""The request `events`: what has become of jobs, each once and in order."""

from pathlib import Path

from teleworkerd.protocol.messages import (
    EVERYBODY,
    Cancel,
    EventsRequest,
    KillRequest,
    RemoveRequest,
)
from teleworkerd.protocol.responses import (
    DoneResponse,
    ErrorResponse,
    EventsEnd,
    EventsResponse,
    JobNews,
)
from teleworkerd.protocol.types import JobState, Reason
from tests.e2e.pki import Certificates
from tests.server.peers import error_of, until
from tests.server.scene import Scene, scene


States = list[tuple[JobState, bool]]
STARTING, RUNNING = JobState.STARTING, JobState.RUNNING
FINISHED, STOPPING = JobState.FINISHED, JobState.STOPPING


async def told(play: Scene, request: EventsRequest, count: int) -> list[JobNews]:
    """Return the first *count* news that alice is told for *request*."""
    play.alice.flush(request)
    return await more(play, count)


async def more(play: Scene, count: int) -> list[JobNews]:
    """Return the next *count* news."""
    found: list[JobNews] = []

    while len(found) < count:
        found += (await play.alice.expect(EventsResponse)).news

    assert len(found) == count
    return found


async def begun(play: Scene) -> str:
    """Let alice start a job; return its id once the news of it are on disk."""
    job = await play.run()
    await until(lambda: play.manager.events.newest == 2, what="its second state")
    return job


def states(news: list[JobNews]) -> States:
    """Return what has become of the jobs."""
    return [(each.state, each.removed) for each in news]


async def test_life_of_a_job(certs: Certificates, tmp_path: Path) -> None:
    """Each state is told, and the removal, with numbers that grow."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        first = await told(play, EventsRequest(5, follow=True), 2)
        await play.alice.ask(KillRequest(6, job), DoneResponse)
        stopping = await more(play, 1)
        play.executor.exit(job)
        ended = await more(play, 1)
        play.alice.flush(RemoveRequest(7, job))
        last = [await play.alice.receive(), await play.alice.receive()]
        (removed,) = (each for each in last if isinstance(each, EventsResponse))

    news = [*first, *stopping, *ended, *removed.news]
    assert states(news) == [
        (STARTING, False),
        (RUNNING, False),
        (STOPPING, False),
        (JobState.STOPPED, False),
        (JobState.STOPPED, True),
    ]
    assert [each.number for each in news] == [1, 2, 3, 4, 5]
    assert {(each.job, each.owner) for each in news} == {(job, "alice")}
    assert (ended[0].reason, ended[0].exit_code) == (Reason.EXITED, 3)


async def test_without_following(certs: Certificates, tmp_path: Path) -> None:
    """What there is comes, then the end, with the number to go on with."""
    async with scene(certs, tmp_path) as play:
        job = await begun(play)
        news = await told(play, EventsRequest(5), 2)
        end = await play.alice.expect(EventsEnd)
        play.executor.exit(job)
        await play.manager.get(job, owner="alice").wait()
        later = await told(play, EventsRequest(6, since=end.upto, follow=True), 1)

    assert end == EventsEnd(5, 2)
    assert states([*news, *later]) == [
        (STARTING, False),
        (RUNNING, False),
        (FINISHED, False),
    ]


async def test_nothing_new(certs: Certificates, tmp_path: Path) -> None:
    """Where there is nothing, the end comes at once."""
    async with scene(certs, tmp_path) as play:
        await begun(play)
        nothing = await play.bob.ask(EventsRequest(5), EventsEnd)

    assert nothing.upto == 2


async def test_cancel(certs: Certificates, tmp_path: Path) -> None:
    """Who follows gets the end when it cancels."""
    async with scene(certs, tmp_path) as play:
        await play.run()
        await told(play, EventsRequest(5, follow=True), 2)
        play.alice.flush(Cancel(5))

        assert await play.alice.receive() == EventsEnd(5, 2)


async def test_number_yet_to_come(certs: Certificates, tmp_path: Path) -> None:
    """A number of another server, or of nobody, is told to be that."""
    async with scene(certs, tmp_path) as play:
        await begun(play)
        answer = await play.alice.ask(EventsRequest(5, since=99), ErrorResponse)

    assert error_of(answer) == (5, "invalid_request")
    assert "the newest is 2" in answer.message


async def test_of_others(certs: Certificates, tmp_path: Path) -> None:
    """Whose role does not let them see others' jobs hears of none."""
    async with scene(certs, tmp_path) as play:
        await play.run()
        answer = await play.bob.ask(EventsRequest(5, owner=EVERYBODY), ErrorResponse)

    assert error_of(answer) == (5, "permission_denied")
