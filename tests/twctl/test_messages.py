"""What a server says is passed on in its words, with the code that scripts look for."""

from typing import Final

import pytest

from teleworkerd.protocol.errors import ErrorCode, RequestError
from teleworkerd.protocol.messages import OutputRequest, RunRequest, StatusRequest
from tests.twctl.calling import Capture, error_of
from tests.twctl.fake import FakeServer
from tests.twctl.fake_output import JOB_ID, FakeJob
from twctl.cli import main


SENTENCE: Final = "what failed, of what, and why; what to do"
OF_THE_SERVER: Final = frozenset(
    {
        *(ErrorCode.NO_SPACE, ErrorCode.UNAVAILABLE, ErrorCode.TOO_MANY),
        *(ErrorCode.CANCELLED, ErrorCode.UNSUPPORTED_VERSION),
        *(ErrorCode.PROTOCOL_ERROR, ErrorCode.INTERNAL),
    }
)

pytestmark = pytest.mark.usefixtures("environment")


@pytest.mark.parametrize("code", ErrorCode)
def test_each_code(server: FakeServer, capsys: Capture, code: ErrorCode) -> None:
    """One line, and 1 where the caller can do something about it, else 125."""
    server.jobs[JOB_ID] = FakeJob()
    server.errors[StatusRequest] = RequestError.from_wire(code, SENTENCE, {})

    status = main(["status", JOB_ID])

    assert error_of(capsys) == f"twctl: error: {SENTENCE}\n"
    assert status == (125 if code in OF_THE_SERVER else 1)


@pytest.mark.parametrize("code", ErrorCode)
def test_each_code_of_run(server: FakeServer, capsys: Capture, code: ErrorCode) -> None:
    """For run it is 125, whatever it is, that no job's code is meant."""
    server.errors[RunRequest] = RequestError.from_wire(code, SENTENCE, {})

    assert main(["run", "true"]) == 125
    assert error_of(capsys) == f"twctl: error: {SENTENCE}\n"


def test_removed_while_it_is_read(server: FakeServer, capsys: Capture) -> None:
    """Who reads a job that somebody removes is told so."""
    server.jobs[JOB_ID] = FakeJob()
    server.errors[OutputRequest] = RequestError.from_wire(
        ErrorCode.JOB_REMOVED, f"job {JOB_ID} was removed", {"job": JOB_ID}
    )

    assert main(["tail", JOB_ID]) == 1
    assert error_of(capsys) == f"twctl: error: job {JOB_ID} was removed\n"


def test_code_of_a_newer_server(server: FakeServer, capsys: Capture) -> None:
    """What we do not know is named, and is the server's failure."""
    server.jobs[JOB_ID] = FakeJob()
    server.errors[StatusRequest] = RequestError.from_wire("on_strike", SENTENCE, {})

    assert main(["status", JOB_ID]) == 125
    assert error_of(capsys) == f"twctl: error: {SENTENCE} (on_strike)\n"
