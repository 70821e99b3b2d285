"""What becomes of a client for whom there is no room."""

import asyncio
import re
import time
from contextlib import aclosing
from typing import Any

import pytest

from teleworkerd.protocol.errors import (
    Details,
    RequestError,
    TooMany,
    Unavailable,
)
from teleworkerd.protocol.messages import (
    OutputRequest,
    Request,
    RunRequest,
    WaitRequest,
)
from teleworkerd.protocol.types import Stream
from tests.twctl.calling import RUNNING, Capture, asked, error_of, read
from tests.twctl.fake import FakeServer
from tests.twctl.fake_output import JOB_ID, FakeJob
from twctl import link
from twctl.cli import main
from twctl.client import Client
from twctl.outage import GaveUp
from twctl.profile import Profile


pytestmark = pytest.mark.timeout(20)


def crowd(pause: int | None = None) -> TooMany:
    """Return what is said to who has too many connections."""
    details: Details = {"what": "connections", "most": 4}
    wanted: Details = {} if pause is None else {"retry_after": pause}
    return TooMany("alice has 4 connections, the most", {**details, **wanted})


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("follow", [[], ["-f"]])
@pytest.mark.parametrize(
    ("pause", "when"),
    [(2, "; try again in 2 s"), (0, "; try again in 1 s"), (None, "")],
)
def test_too_many(
    server: FakeServer,
    capsys: Capture,
    follow: list[str],
    pause: int | None,
    when: str,
) -> None:
    """Who has too many is told when to try again, if that helps: 125."""
    server.errors[RunRequest] = crowd(pause)

    assert main(["run", *follow, "ls"]) == 125
    assert (
        error_of(capsys) == f"twctl: error: alice has 4 connections, the most{when}\n"
    )
    assert len(asked(server, RunRequest)) == 1


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("pause", [-1, "soon", ["1"]])
def test_odd_pause(
    server: FakeServer, capsys: Capture, pause: int | str | list[str]
) -> None:
    """A pause that is none is not spoken of."""
    server.errors[RunRequest] = TooMany("no", {"retry_after": pause})

    assert main(["run", "ls"]) == 125
    assert error_of(capsys) == "twctl: error: no\n"


@pytest.mark.usefixtures("environment")
def test_pause_in_words(server: FakeServer, capsys: Capture) -> None:
    """What the server has said in words is not said twice."""
    server.errors[RunRequest] = TooMany("try again in 3 s", {"retry_after": 3})

    main(["run", "ls"])

    assert error_of(capsys) == "twctl: error: try again in 3 s\n"


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("is_polite", [False, True], ids=["", "after hello"])
@pytest.mark.parametrize("verb", ["info", "status", "wait", "tail", "kill", "run"])
def test_no_room_for_another(
    server: FakeServer, capsys: Capture, *, verb: str, is_polite: bool
) -> None:
    """Who gets no connection is told why, and when to try again: 125."""
    server.greetings = [crowd(7)]
    server.is_polite = is_polite

    assert main([verb, *([] if verb == "info" else [JOB_ID])]) == 125
    assert re.fullmatch(
        r"twctl: error: 127\.0\.0\.1:\d+: alice has 4 connections, the most;"
        r" try again in 7 s\n",
        error_of(capsys),
    )


async def test_too_many_in_the_library(server: FakeServer, profile: Profile) -> None:
    """The library raises it with its facts, asked for or at the first connection."""
    server.greetings = [crowd(7)]

    with pytest.raises(TooMany) as at_first:
        await Client(profile).__aenter__()

    async with Client(profile) as client:
        server.errors[RunRequest] = crowd(7)

        with pytest.raises(TooMany) as later:
            await client.run(["ls"])

    assert at_first.value.details["retry_after"] == 7
    assert later.value.details["most"] == 4


async def test_too_many_waits(server: FakeServer, profile: Profile) -> None:
    """A wait that is one too many is refused at once, as any other request."""
    server.jobs[JOB_ID] = FakeJob(RUNNING)
    server.errors[WaitRequest] = crowd()

    async with Client(profile) as client:
        with pytest.raises(TooMany):
            await client.job(JOB_ID).wait()

    assert server.connections == 1


@pytest.mark.parametrize("error", [crowd(), Unavailable("busy")], ids=["many", "busy"])
async def test_no_room_when_coming_back(
    server: FakeServer, profile: Profile, error: RequestError
) -> None:
    """Who comes back and finds no room tries again."""
    server.jobs[JOB_ID] = FakeJob(output={Stream.STDOUT: b"all"})
    server.cuts = [250]
    server.greetings = [None, error, error]

    async with Client(profile) as client:
        assert await read(client) == b"all"

    assert server.connections == 4


@pytest.mark.slow
async def test_pause_when_coming_back(server: FakeServer, profile: Profile) -> None:
    """The pause that the server asks for is kept."""
    server.jobs[JOB_ID] = FakeJob(output={Stream.STDOUT: b"all"})
    server.cuts = [250]
    server.greetings = [None, crowd(1)]
    begin = time.monotonic()

    async with Client(profile) as client:
        assert await read(client) == b"all"

    assert 1 <= time.monotonic() - begin < 5


async def test_no_room_for_ever(server: FakeServer, profile: Profile) -> None:
    """Who never finds room gives up as with any outage, and says why."""
    server.jobs[JOB_ID] = FakeJob(output={Stream.STDOUT: b"all"})
    server.cuts = [250]
    server.greetings = [None, *[crowd(60)] * 100]
    begin = time.monotonic()

    async with Client(profile, retry_for=0.6) as client:
        with pytest.raises(GaveUp, match="the most"):
            await read(client)

    assert time.monotonic() - begin < 5
    assert server.connections < 10


async def test_no_room_for_the_request(server: FakeServer, profile: Profile) -> None:
    """What was cut off may be refused at first: the server counts it still."""
    server.jobs[JOB_ID] = FakeJob(output={Stream.STDOUT: b"all"})
    server.cuts = [160]

    async with Client(profile) as client:
        server.errors[OutputRequest] = crowd()
        assert await read(client) == b"all"


class Always(dict[type[Request], RequestError]):
    """Errors that come again and again."""

    def pop(self, key: type[Request], default: Any = None) -> Any:
        """Return what stands there, and leave it."""
        return self.get(key, default)


async def test_no_room_beside_a_wait(
    server: FakeServer, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is refused soon after a loss is asked again for a while, and nothing cut."""
    monkeypatch.setattr(link, "STABLE_AFTER", 0.4)
    server.jobs[JOB_ID] = FakeJob(RUNNING)

    async with Client(profile) as client:
        waiting = asyncio.create_task(client.job(JOB_ID).wait())
        await server.until(lambda: len(asked(server, WaitRequest)) == 1)
        server.drop()
        await server.until(lambda: len(asked(server, WaitRequest)) == 2)
        server.errors = Always({RunRequest: crowd()})

        with pytest.raises(TooMany):
            await client.run(["ls"])

        assert not waiting.done()
        waiting.cancel()

    assert len(asked(server, RunRequest)) > 1
    assert len(asked(server, WaitRequest)) == 2
    assert server.connections == 2


async def test_too_much_at_once(server: FakeServer, profile: Profile) -> None:
    """A connection that is ended for that is made again."""
    server.jobs[JOB_ID] = FakeJob(RUNNING, {Stream.STDOUT: b"up"})
    notices: list[str] = []

    async with Client(profile, notice=notices.append) as client:
        output = client.job(JOB_ID).output()

        async with aclosing(output):
            assert (await anext(output)).data == b"up"
            server.dismiss(crowd())
            server.jobs[JOB_ID] = FakeJob(output={Stream.STDOUT: b"up and down"})
            assert (await anext(output)).data == b" and down"

    assert "alice has 4 connections" in notices[0]


@pytest.mark.slow
def test_no_room_after_a_lost_answer(server: FakeServer, environment: Profile) -> None:
    """A run whose answer was lost is asked for until there is room, once."""
    server.cuts = [150]
    server.greetings = [None, crowd(1)]
    begin = time.monotonic()

    assert main(["run", "ls"]) == 0
    assert len(server.started) == 1
    assert 1 <= time.monotonic() - begin < 10
