"""Waits for many jobs, and for one that is named again."""

import json
from typing import Final

import pytest

from teleworkerd.protocol.messages import MAX_REQUESTS, WaitRequest
from teleworkerd.protocol.types import JobState
from tests.twctl.calling import Capture, asked, error_of
from tests.twctl.fake import OTHER_ID, FakeServer
from tests.twctl.fake_output import JOB_ID, FakeJob, make_status
from twctl.cli import main


pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("environment")]

IDS: Final = [
    f"0123abcd-0000-4000-8000-{number:012d}" for number in range(MAX_REQUESTS + 50)
]


def of_code(job: str, code: int) -> FakeJob:
    """Return a job that has ended with *code*."""
    return FakeJob(make_status(id=job, exit_code=code))


@pytest.fixture
def many(server: FakeServer) -> FakeServer:
    """A server with more jobs than a connection has requests; the last has ended."""
    for job in IDS[:-1]:
        status = make_status(id=job, state=JobState.RUNNING, exit_code=None)
        server.jobs[job] = FakeJob(status)

    server.jobs[IDS[-1]] = of_code(IDS[-1], 3)
    return server


@pytest.mark.slow
@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("within", [[], ["--timeout", "20"], ["--timeout", "0"]])
def test_any_of_many(capsys: Capture, within: list[str]) -> None:
    """Each of them is waited for at once, however many there are."""
    assert main(["wait", "--any", *within, *IDS]) == 3
    assert capsys.readouterr().out == f"{IDS[-1]} 3\n"


@pytest.mark.slow
@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("within", ["1s", "0"])
def test_many_within_a_time(capsys: Capture, within: str) -> None:
    """Of those that have ended in time none is left out."""
    assert main(["wait", "--timeout", within, *IDS]) == 124

    out, err = capsys.readouterr()
    assert out == "3\n"
    assert err.split(": ")[-1].split() == IDS[:-1]


def test_named_again(server: FakeServer, capsys: Capture) -> None:
    """There is a code for each time that a job is named; it is asked for once."""
    server.jobs = {JOB_ID: of_code(JOB_ID, 3), OTHER_ID: of_code(OTHER_ID, 4)}

    assert main(["wait", JOB_ID, OTHER_ID, JOB_ID]) == 4
    assert capsys.readouterr().out == "3\n4\n3\n"
    assert len(asked(server, WaitRequest)) == 2


def test_named_again_in_json(server: FakeServer, capsys: Capture) -> None:
    """So there is an object."""
    server.jobs[JOB_ID] = of_code(JOB_ID, 3)

    assert main(["wait", "-o", "json", JOB_ID, JOB_ID]) == 3
    objects = json.loads(capsys.readouterr().out)
    assert [each["exit_code"] for each in objects] == [3, 3]


def test_any_of_one_that_is_named_again(server: FakeServer, capsys: Capture) -> None:
    """Of any, it is one line."""
    server.jobs[JOB_ID] = of_code(JOB_ID, 3)

    assert main(["wait", "--any", JOB_ID, JOB_ID]) == 3
    assert capsys.readouterr().out == f"{JOB_ID} 3\n"


def test_named_again_and_going_on(server: FakeServer, capsys: Capture) -> None:
    """It has not ended in time once."""
    running = make_status(state=JobState.RUNNING, exit_code=None)
    server.jobs[JOB_ID] = FakeJob(running)

    assert main(["wait", "--timeout", "0", JOB_ID, JOB_ID]) == 124
    assert error_of(capsys) == f"twctl: error: not ended within 0 s: {JOB_ID}\n"
