"""What the tests of the verbs have in common."""

from typing import Final

import pytest

from teleworkerd.protocol.messages import Request
from teleworkerd.protocol.types import JobState
from tests.twctl.fake import FakeServer
from tests.twctl.fake_output import JOB_ID, make_status
from twctl.client import Client


RUNNING: Final = make_status(state=JobState.RUNNING, exit_code=None)

Capture = pytest.CaptureFixture[str]


def error_of(capture: Capture) -> str:
    """Return the one line of a failure; anything beside it fails the test."""
    out, err = capture.readouterr()
    assert out == ""
    assert err.startswith("twctl: error: ")
    assert err.count("\n") == 1
    return err


def asked(server: FakeServer, kind: type[Request]) -> list[Request]:
    """Return the requests of one kind."""
    return [request for request in server.asked if isinstance(request, kind)]


async def read(client: Client) -> bytes:
    """Return all that the job has written to stdout."""
    return b"".join([chunk.data async for chunk in client.job(JOB_ID).output()])
