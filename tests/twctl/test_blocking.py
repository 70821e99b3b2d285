"""What asks once, without an event loop, on a bad network."""

import asyncio
import re
import socket

import pytest

from teleworkerd.protocol.errors import ConnectionClosed
from teleworkerd.protocol.messages import RunRequest
from tests.e2e.pki import Certificates
from tests.twctl.calling import Capture, asked, error_of
from tests.twctl.fake import FakeServer, FakeSession, context_of, profile_of
from twctl import blocking, opening
from twctl.blocking import connect
from twctl.cli import main
from twctl.opening import open_session
from twctl.profile import Profile


pytestmark = pytest.mark.timeout(20)

UNKNOWN = (
    r"whether the job was started is not known: the same command"
    r" with --request-id [0-9a-f]{32} starts no second one\n$"
)


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("verb", ["info", "run"])
def test_cut_before_the_hello(server: FakeServer, capsys: Capture, verb: str) -> None:
    """Who is cut off before a hello tries again, and says nothing."""
    server.cuts = [0, 0, 0]

    assert main([verb, *(["ls"] if verb == "run" else [])]) == 0
    assert capsys.readouterr().err == ""
    assert server.connections == 4


@pytest.mark.usefixtures("environment")
def test_never_a_hello(
    server: FakeServer, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is always cut off is told soon."""
    monkeypatch.setattr(blocking, "FIRST_TRY", 0.3)
    server.cuts = [0] * 1000

    assert main(["info"]) == 125
    assert "during authentication" in error_of(capsys)
    assert 1 < server.connections < 20


@pytest.mark.usefixtures("environment")
def test_retry_for(
    server: FakeServer, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`TWCTL_RETRY_FOR` is kept, and looked at."""
    monkeypatch.setenv("TWCTL_RETRY_FOR", "0")
    server.cuts = [0]
    assert main(["info"]) == 125
    assert "during authentication" in error_of(capsys)
    assert server.connections == 1

    monkeypatch.setenv("TWCTL_RETRY_FOR", "soon")
    assert main(["list"]) == 2
    assert "TWCTL_RETRY_FOR='soon'" in error_of(capsys)


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("options", [[], ["--no-reconnect"]], ids=["", "once"])
def test_answer_that_never_comes(
    server: FakeServer,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
) -> None:
    """Who does not learn whether the job was started is told how to find out."""
    monkeypatch.setenv("TWCTL_RETRY_FOR", "0.3")
    server.cuts = [150, *[0] * 1000]

    assert main(["run", *options, "ls"]) == 125
    error = error_of(capsys)
    assert re.search(UNKNOWN, error)
    assert ("gave up connecting again after 0." in error) is (not options)
    assert ("gave up" in error) is (not options)
    assert (server.connections == 1) is ("--no-reconnect" in options)
    [request] = asked(server, RunRequest)
    assert isinstance(request, RunRequest)
    assert request.request_id in server.started


@pytest.mark.usefixtures("environment")
def test_given_request_id(
    server: FakeServer, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ID to go on with is the one that was given."""
    monkeypatch.setenv("TWCTL_RETRY_FOR", "0")
    server.cuts = [150]

    assert main(["run", "--request-id", "nightly", "ls"]) == 125
    assert "with --request-id nightly starts" in error_of(capsys)


async def test_silent_listener(
    certs: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who connects to what never speaks TLS hears nothing of certificates."""
    monkeypatch.setattr(opening, "CONNECT_TIMEOUT", 0.2)
    monkeypatch.setattr(blocking, "CONNECT_TIMEOUT", 0.2)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        profile = profile_of(listener.getsockname(), certs)

        with pytest.raises(ConnectionClosed, match="no response within 10 s"):
            await open_session(profile, context_of(profile))

        with pytest.raises(ConnectionClosed, match="no response within 10 s"):
            await asyncio.to_thread(connect, profile)


async def test_silent_server(
    server: FakeServer, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that never says hello is not waited for for ever."""
    monkeypatch.setattr(blocking, "HELLO_TIMEOUT", 0.1)
    monkeypatch.setattr(FakeSession, "flush", lambda _: None)

    with pytest.raises(ConnectionClosed, match="no word from the server"):
        await asyncio.to_thread(connect, profile)

    assert server.connections == 1
