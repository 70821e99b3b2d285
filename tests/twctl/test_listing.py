"""Lists of jobs, of which some are removed between two pages."""

from collections.abc import Sequence
from typing import Final

import pytest

from teleworkerd.protocol.errors import JobNotFound
from teleworkerd.protocol.messages import MAX_PAGE, ListRequest, Message, Request
from teleworkerd.protocol.responses import ErrorResponse
from tests.twctl.calling import Capture, asked
from tests.twctl.fake import FakeServer
from tests.twctl.fake_output import FakeJob, make_status
from twctl.cli import main
from twctl.client import Client
from twctl.profile import Profile


pytestmark = pytest.mark.timeout(30)

IDS: Final = [f"job-{number:04d}" for number in range(MAX_PAGE + 20)]

# Which are removed before the second page is asked for.
REMOVED: Final = {
    "the last": [MAX_PAGE - 1],
    "the last ten": range(MAX_PAGE - 10, MAX_PAGE),
    "all of the page": range(MAX_PAGE),
    "the last and later ones": range(MAX_PAGE - 1, MAX_PAGE + 5),
    "all": range(len(IDS)),
}


def remove_between(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, removed: Sequence[int]
) -> set[str]:
    """Have *removed* go when the second page is asked for; return what is left."""
    server.jobs = {job: FakeJob(make_status(id=job)) for job in IDS}
    answer = server.answer

    def answer_later(request: Request) -> Message | None:
        if isinstance(request, ListRequest) and request.before is not None:
            for number in removed:
                server.jobs.pop(IDS[number], None)

            if request.before not in server.jobs:
                error = JobNotFound("it was removed")
                return ErrorResponse(error.code, error.message, request.id)

        return answer(request)

    monkeypatch.setattr(server, "answer", answer_later)
    return {*IDS} - {IDS[number] for number in removed}


@pytest.mark.parametrize("removed", REMOVED.values(), ids=REMOVED)
async def test_library(
    server: FakeServer,
    profile: Profile,
    monkeypatch: pytest.MonkeyPatch,
    removed: Sequence[int],
) -> None:
    """Each that is still there is listed, once and in order."""
    left = remove_between(server, monkeypatch, removed)

    async with Client(profile) as client:
        listed = [status.id for status in await client.list()]

    assert listed == sorted({*listed})
    assert left <= {*listed}
    assert len(asked(server, ListRequest)) < 15


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("removed", REMOVED.values(), ids=REMOVED)
def test_command_line(
    server: FakeServer,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    removed: Sequence[int],
) -> None:
    """So it is where there is no event loop."""
    left = remove_between(server, monkeypatch, removed)

    assert main(["list", "-aq"]) == 0

    listed = capsys.readouterr().out.split()
    assert listed == sorted({*listed})
    assert left <= {*listed}


async def test_at_most(
    server: FakeServer, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are no more than were asked for."""
    remove_between(server, monkeypatch, [MAX_PAGE - 1])

    async with Client(profile) as client:
        listed = await client.list(limit=MAX_PAGE + 7)

    assert len(listed) == MAX_PAGE + 7
