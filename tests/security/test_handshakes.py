"""A handshake costs the server little, and nothing outlives it."""

import subprocess

import pytest

from tests.e2e.daemon import Daemon
from tests.e2e.pki import Certificates


def handshake(daemon: Daemon, certs: Certificates, *options: str) -> str:
    """Return what openssl says of a connection of alice's with these *options*."""
    alice = certs.of("alice")
    done = subprocess.run(
        (
            *("openssl", "s_client", "-connect", daemon.address, "-state"),
            *("-alpn", "teleworker/1", "-CAfile", str(certs.ca)),
            *("-cert", str(alice.cert), "-key", str(alice.key), *options),
        ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=30,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("group", ["ffdhe2048", "ffdhe8192"])
def test_costly_groups_are_refused(
    daemon: Daemon, certs: Certificates, group: str
) -> None:
    """Nobody can have the server compute with thousands of bits before it knows them.

    One handshake over ffdhe8192 keeps a processor for more than a tenth of a second.
    """
    said = handshake(daemon, certs, "-groups", group)

    assert "alert handshake failure" in said
    assert "no peer certificate available" in said


def test_every_client_finds_a_group(daemon: Daemon, certs: Certificates) -> None:
    """A client that begins with another curve is told which to take."""
    said = handshake(daemon, certs, "-groups", "X25519:P-256")

    assert "prime256v1" in said
    assert "Verify return code: 0 (ok)" in said


def test_no_ticket_is_given(daemon: Daemon, certs: Certificates) -> None:
    """No session can be taken up again: the revocation list is always asked."""
    said = handshake(daemon, certs)

    assert "Verify return code: 0 (ok)" in said
    assert "New Session Ticket" not in said
