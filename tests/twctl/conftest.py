"""A fake server, and the environment in which `twctl` finds it."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.e2e.pki import Certificates
from tests.twctl.fake import FakeServer, profile_of, serving
from twctl.profile import Profile


@pytest.fixture
def server() -> FakeServer:
    """A server without jobs."""
    return FakeServer()


@pytest.fixture
async def profile(server: FakeServer, certs: Certificates) -> AsyncIterator[Profile]:
    """How to reach the server, which runs on the test's own loop."""
    listener = await server.listen(certs)

    try:
        yield profile_of(listener.sockets[0].getsockname(), certs)
    finally:
        listener.close()

        for session in server.sessions:
            if session.transport is not None:
                session.transport.abort()


@pytest.fixture
def environment(
    server: FakeServer, certs: Certificates, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Profile]:
    """Point `twctl` to the server, which runs in a thread."""
    with serving(server, certs) as profile:
        monkeypatch.setenv("XDG_CONFIG_HOME", "/nonexistent")
        monkeypatch.setenv("XDG_STATE_HOME", "/proc/nonexistent")
        monkeypatch.setenv("TWCTL_HOST", profile.address)
        monkeypatch.setenv("TWCTL_CA", str(profile.ca))
        monkeypatch.setenv("TWCTL_CERT", str(profile.cert))
        monkeypatch.setenv("TWCTL_KEY", str(profile.key))
        yield profile
