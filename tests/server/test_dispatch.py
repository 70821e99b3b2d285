"""Every way out of a handler is a response."""

import errno
import re
from typing import Any

import pytest

from teleworkerd.protocol.errors import ConnectionClosed, JobNotFound
from teleworkerd.protocol.messages import InfoRequest, Message, StatusRequest
from teleworkerd.protocol.responses import ErrorResponse, InfoResponse, RunResponse
from teleworkerd.protocol.roles import RESPONSES, Rejected
from teleworkerd.server.handlers import HANDLERS, Call, Handler, Service
from tests.e2e.pki import Certificates
from tests.server.peers import Peers, error_of, serving


async def response_of(
    certs: Certificates, handler: Handler
) -> tuple[ErrorResponse, InfoResponse]:
    """Return what a client gets from *handler*, and from a good one after it."""

    async def good(service: Service, call: Call, request: Any) -> Message:
        return InfoResponse(call.id, "1", "x", 1, 1, 0, "none", {}, {}, 1, (0.0,))

    handlers = {StatusRequest: handler, InfoRequest: good}

    async with serving(certs, handlers=handlers) as server, Peers() as peers:
        client = await peers.connect(server, certs)
        error = await client.ask(StatusRequest(1, "job"), ErrorResponse)
        return error, await client.ask(InfoRequest(1), InfoResponse)


async def test_refusal(certs: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    """A refusal keeps its code, message and details, and is no error in the log."""

    async def refuse(service: Service, call: Call, request: Any) -> Message:
        raise JobNotFound("there is no job", {"job": "job"})

    error, _ = await response_of(certs, refuse)

    assert error_of(error) == (1, "job_not_found")
    assert (error.message, error.details) == ("there is no job", {"job": "job"})
    assert not [line for line in caplog.records if line.levelname == "ERROR"]


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "Too many open files"), MemoryError()]
)
async def test_lack(
    certs: Certificates, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """What the server lacks is said in words, by a refusal that may pass."""

    async def starve(service: Service, call: Call, request: Any) -> Message:
        raise error

    refusal, _ = await response_of(certs, starve)

    assert error_of(refusal) == (1, "unavailable")
    assert re.search("no .* left; try again later", refusal.message)
    assert refusal.details == {"retry_after": 1}
    assert "Traceback" not in caplog.text


async def test_bug(certs: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    """A bug is told without its details, logged with them, and costs nothing else."""

    async def fail(service: Service, call: Call, request: Any) -> Message:
        raise RuntimeError("a secret")

    error, after = await response_of(certs, fail)

    assert error_of(error) == (1, "internal")
    assert "secret" not in error.message + str(error.details)
    assert after.version == "1"
    (line,) = [line for line in caplog.records if line.levelname == "ERROR"]
    assert line.exc_info
    assert "a secret" in caplog.text
    assert "request status of alice@127.0.0.1:" in line.getMessage()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda call: RunResponse(call.id, "job"),
        lambda call: InfoResponse(call.id, "\ud800", "", 1, 1, 0, "", {}, {}, 1, ()),
        lambda call: ErrorResponse("x", "m" * (3 << 20), call.id),
    ],
    ids=["of another kind", "no text", "too long"],
)
async def test_answer_that_cannot_be_sent(
    certs: Certificates, caplog: pytest.LogCaptureFixture, wrong: Any
) -> None:
    """A response that breaks the protocol's own rules is an error, not a silence."""

    async def unsendable(service: Service, call: Call, request: Any) -> Message:
        message: Message = wrong(call)
        return message

    error, after = await response_of(certs, unsendable)

    assert error_of(error) == (1, "internal")
    assert after.version == "1"
    assert "Traceback" in caplog.text


def test_every_request_has_a_handler() -> None:
    """What a client may ask is in the table."""
    assert set(HANDLERS) == set(RESPONSES) - {Rejected}


async def test_client_that_is_gone(certs: Certificates) -> None:
    """A handler that finds its client gone ends without a word."""

    async def gone(service: Service, call: Call, request: Any) -> Message:
        raise ConnectionClosed("gone")

    async with (
        serving(certs, handlers={StatusRequest: gone}) as server,
        Peers() as peers,
    ):
        client = await peers.connect(server, certs)
        client.flush(StatusRequest(1, "job"))
        client.writer.write(b"\xff" * 8)

        assert "a frame of" in (await client.refusal()).message
