"""Who is not let in, what they are told, and what the operator reads about it."""

import itertools
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.authority import Authority
from tests.e2e.commandline import Completed, Twctl, call, settings
from tests.e2e.daemon import Daemon, StartDaemon
from tests.e2e.pki import (
    DAY,
    Certificates,
    Identity,
    Purpose,
    generate,
    issue,
    revoke,
)
from tests.e2e.strangers import connect, context_of, impostor, talk, try_handshake
from tests.e2e.waiting import wait_for


Make = Callable[[Certificates, Path], Identity | None]

# What each is, how it is made, the reason for the client, and that for the log.
REFUSED: Final[dict[str, tuple[Make, str, str]]] = {
    "none": (
        lambda certs, into: None,
        "certificate",
        "certificate",
    ),
    "other CA": (
        lambda certs, into: generate(into / "other", "alice").of("alice"),
        "CA",
        "CA|issuer|self-signed",
    ),
    "expired": (
        lambda certs, into: issue(
            certs, "/CN=alice", into=into, begins=-2 * DAY, ends=-DAY
        ),
        "expired",
        "expired",
    ),
    "not yet valid": (
        lambda certs, into: issue(
            certs, "/CN=alice", into=into, begins=DAY, ends=2 * DAY
        ),
        "not valid yet|not yet valid",
        "not yet valid|not valid yet",
    ),
    "of a server": (
        lambda certs, into: certs.of("server"),
        "client",
        "purpose",
    ),
}

# Certificates that TLS accepts, but that do not name exactly one decent person.
NAMELESS: Final = {
    "two names": "/CN=alice/CN=bob",
    "no name": "/O=alice",
    "a path": "/CN=..\\/bob",
    "a space": "/CN=alice bob",
}


@pytest.fixture(scope="module")
def odd(
    certs: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Identity | None]:
    """One certificate, or none, for each entry of the tables."""
    base = tmp_path_factory.mktemp("odd")
    found = {name: make(certs, base / name) for name, (make, _, _) in REFUSED.items()}
    return found | {
        name: issue(certs, subject, into=base / name)
        for name, subject in NAMELESS.items()
    }


_HOSTS: Final = itertools.count(2)


@pytest.fixture
def source() -> str:
    """An address from which nobody has come: refusals of one are summed up."""
    high, low = divmod(next(_HOSTS), 256)
    return f"127.0.{high}.{low}"


def lines_of(daemon: Daemon, source: str) -> list[str]:
    """Return what the log has of *source*."""
    return daemon.log_lines(rf"{re.escape(source)}:\d+\b")


def refusal(daemon: Daemon, identity: Identity | None, *arguments: str) -> Completed:
    """Try something with *identity* at the command line."""
    return Twctl(daemon, identity)(*arguments)


@pytest.mark.parametrize("name", REFUSED)
def test_message_at_the_client(
    daemon: Daemon, odd: dict[str, Identity | None], name: str
) -> None:
    """The client says in one line what is wrong with the certificate: 125."""
    done = refusal(daemon, odd[name], "run", "true")

    assert done.code == 125
    assert re.search(REFUSED[name][1], done.error)


def test_messages_differ(daemon: Daemon, odd: dict[str, Identity | None]) -> None:
    """Each refusal has its own message."""
    messages = {refusal(daemon, odd[name], "info").error for name in REFUSED}

    assert len(messages) == len(REFUSED)


@pytest.mark.parametrize("name", REFUSED)
def test_line_in_the_log(
    daemon: Daemon,
    alice: Twctl,
    odd: dict[str, Identity | None],
    source: str,
    name: str,
) -> None:
    """A refusal is one line in the log, with the peer and the reason."""
    port, words = try_handshake(daemon.address, daemon.certs, odd[name], source)
    (line,) = wait_for(lambda: lines_of(daemon, source), what="line in the log")

    assert words == b""
    assert f"{source}:{port}: " in line
    assert re.search(REFUSED[name][2], line)
    assert alice("info").code == 0  # and what was to be logged has been
    assert lines_of(daemon, source) == [line]


@pytest.mark.parametrize("name", NAMELESS)
def test_strict_names(
    daemon: Daemon, odd: dict[str, Identity | None], source: str, name: str
) -> None:
    """A certificate that does not hold exactly one decent CN is refused."""
    try_handshake(daemon.address, daemon.certs, odd[name], source)
    done = refusal(daemon, odd[name], "info")

    assert len(lines_of(daemon, source)) == 1
    assert "common name" in done.error
    assert done.code == 125


def test_no_purpose(
    daemon: Daemon, certs: Certificates, tmp_path: Path, source: str
) -> None:
    """A certificate that does not say what it is for is refused, by both sides."""
    identity = Authority.of(certs).client(purposes=()).save(tmp_path, "alice")

    try_handshake(daemon.address, certs, identity, source)
    done = refusal(daemon, identity, "info")

    (line,) = lines_of(daemon, source)
    assert "clientAuth" in line
    assert "clientAuth" in done.error
    assert done.code == 125


@pytest.mark.parametrize(
    "verb", [("status", "abcd"), ("list",), ("kill", "abcd"), ("wait", "abcd")]
)
def test_refusal_is_125_for_every_verb(
    daemon: Daemon, odd: dict[str, Identity | None], verb: tuple[str, ...]
) -> None:
    """A refused connection is a failure of the connection, whatever the verb."""
    assert refusal(daemon, odd["other CA"], *verb).code == 125


def test_revoked(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """Whoever is on crl.pem is refused; the others are not."""
    certs = generate(tmp_path / "certs", "alice", "bob")
    revoke(certs, "bob")
    daemon = start_daemon(certs=certs)
    alice, bob = (Twctl(daemon, certs.of(name)) for name in ("alice", "bob"))

    done = bob("info")

    assert done.code == 125
    assert "revoked" in done.error
    assert alice("info").code == 0


def test_revoked_while_it_serves(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """SIGHUP makes the daemon read its certificates and crl.pem again."""
    certs = generate(tmp_path / "certs", "alice", "bob")
    daemon = start_daemon(certs=certs)
    bob = Twctl(daemon, certs.of("bob"))
    assert bob("info").code == 0

    revoke(certs, "bob")
    os.kill(daemon.process.pid, signal.SIGHUP)

    wait_for(lambda: bob("info").code == 125, what="refusal", within=5)


@pytest.mark.parametrize(
    ("purpose", "days", "reason"),
    [
        (Purpose.SERVER, (-2, -1), "expired"),
        (Purpose.SERVER, (1, 2), "not valid yet|not yet valid"),
        (Purpose.SERVER_ELSEWHERE, (-1, 1), "127.0.0.1"),
        (Purpose.CLIENT, (-1, 1), "server"),
    ],
    ids=["expired", "not yet valid", "wrong name", "client's certificate"],
)
def test_server_that_is_not_trusted(
    certs: Certificates,
    tmp_path: Path,
    purpose: Purpose,
    days: tuple[int, int],
    reason: str,
) -> None:
    """The client does not speak to a server with a wrong certificate, and says why."""
    begins, ends = (day * DAY for day in days)
    wrong = issue(
        certs, "/CN=server", into=tmp_path, purpose=purpose, begins=begins, ends=ends
    )

    with impostor(wrong) as address:
        environment = settings(address, certs, certs.of("alice"), home=tmp_path)
        done = call("info", environment=environment)

    assert done.code == 125
    assert re.search(reason, done.error)
    assert "server" in done.error


def test_server_of_another_ca(daemon: Daemon, tmp_path: Path) -> None:
    """A server whose CA the client does not know is not spoken to."""
    other = generate(tmp_path / "other", "alice")
    environment = settings(daemon.address, other, other.of("alice"), home=tmp_path)

    done = call("info", environment=environment)

    assert done.code == 125
    assert "not signed by" in done.error
    assert str(other.ca) in done.error


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"SSH-2.0-x\r\n", bytes(range(255, 0, -1))],
    ids=["http", "ssh", "garbage"],
)
def test_peer_without_tls(
    daemon: Daemon, alice: Twctl, source: str, data: bytes
) -> None:
    """Who does not speak TLS is closed and logged; the daemon lives."""
    with connect(daemon.address, source) as stranger:
        talk(stranger, data)

    wait_for(lambda: lines_of(daemon, source), what="line in log")
    assert alice("info").code == 0


def test_garbage_inside_tls(daemon: Daemon, alice: Twctl, source: str) -> None:
    """Who breaks the protocol with a good certificate is closed and logged."""
    context = context_of(daemon.certs, daemon.certs.of("alice"))

    with (
        connect(daemon.address, source) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secure,
    ):
        talk(secure, b"\xff" * 4096)

    wait_for(lambda: lines_of(daemon, source), what="line in log")
    assert alice("info").code == 0


def test_old_tls(daemon: Daemon, alice: Twctl) -> None:
    """Nothing older than TLS 1.3 is spoken."""
    context = context_of(daemon.certs, daemon.certs.of("alice"))
    context.maximum_version = context.minimum_version.TLSv1_2

    with connect(daemon.address) as raw, pytest.raises(OSError, match=r"(?i)version"):
        context.wrap_socket(raw, server_hostname="localhost")

    assert alice("info").code == 0


@pytest.mark.parametrize("verb", ["attach", "tail -f", "wait", "status", "run -f"])
def test_key_from_a_pipe(alice: Twctl, verb: str) -> None:
    """A key that can be read only once, as one that is decrypted for a call, does."""
    job = "true" if verb == "run -f" else alice.run("true")
    key = alice.environment["TWCTL_KEY"]
    line = f"{shlex.join(alice.program)} --key <(cat {shlex.quote(key)}) {verb} {job}"

    done = subprocess.run(
        ["bash", "-c", line],
        env=alice.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=30,
    )

    assert (done.returncode, done.stderr) == (0, b"")
