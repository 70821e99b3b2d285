"""What a reload does to certificates, and to whom they let in before."""

import os
import re
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.authority import Authority, Signed, directory_of, pem
from tests.e2e.commandline import Twctl
from tests.e2e.daemon import Daemon, Place, StartDaemon, directories, try_to_start
from tests.e2e.pki import DAY, Certificates, generate, revoke
from tests.e2e.strangers import connect, context_of
from tests.e2e.waiting import wait_for


SECOND: Final = timedelta(seconds=1)
STREAMS: Final = 100
SOON: Final = 2.0  # seconds in which somebody who is not trusted any more is gone


def reload(daemon: Daemon) -> subprocess.CompletedProcess[str]:
    """Have the certificates read again, as an operator does."""
    return try_to_start("reload", "--state-dir", str(daemon.place.state))


@contextmanager
def follower(daemon: Daemon, certs: Certificates, name: str) -> Iterator[ssl.SSLSocket]:
    """A connection of *name* that has been greeted and says no more."""
    context = context_of(certs, certs.of(name))

    with (
        connect(daemon.address) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secure,
    ):
        assert secure.recv(4096)
        yield secure


def rest(connection: ssl.SSLSocket, *, within: float) -> bytes:
    """Return what comes until the connection is closed."""
    deadline = time.monotonic() + within
    found = b""

    while True:
        connection.settimeout(max(0.01, deadline - time.monotonic()))

        try:
            more = connection.recv(4096)
        except ssl.SSLEOFError:
            more = b""

        if not more:
            return found

        found += more


def serial_of(daemon: Daemon) -> str:
    """Return the number of the certificate that the server shows now."""
    context = context_of(daemon.certs, None)

    with (
        connect(daemon.address) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secure,
    ):
        certificate = secure.getpeercert()
        assert certificate is not None
        return str(certificate["serialNumber"])


def renew_server(certs: Certificates) -> None:
    """Give the server a new certificate for its key, as gen_certs.sh would."""
    certs.of("server").cert.unlink()
    generate(certs.directory, "alice")


@pytest.fixture
def own(tmp_path: Path) -> Certificates:
    """Certificates that the test may change."""
    return generate(tmp_path / "certs", "alice", "bob")


def test_revoked_while_connected(start_daemon: StartDaemon, own: Certificates) -> None:
    """After the reload who is revoked is told and closed; jobs and others stay."""
    daemon = start_daemon(certs=own)
    alice, bob = (Twctl(daemon, own.of(name)) for name in ("alice", "bob"))
    gate = daemon.gate()
    job = bob.shell(f"echo begun; {gate.wait}; echo over")
    other = alice.shell(f"echo begun; {gate.wait}; echo over")

    with (
        bob.start("tail", "-f", job) as his,
        alice.start("tail", "-f", other) as hers,
        follower(daemon, own, "bob") as silent,
    ):
        his.until(b"begun\n")
        hers.until(b"begun\n")
        revoke(own, "bob")
        assert reload(daemon).returncode == 0
        begin = time.monotonic()
        words = rest(silent, within=SOON)
        done = his.finish(within=SOON)
        took = time.monotonic() - begin

        assert took < SOON
        assert b"was revoked" in words
        assert done.code != 0
        assert re.search(
            r"your certificate \(serial [0-9A-F]+\) was revoked", done.stderr
        )
        gate.open()
        assert hers.finish().stdout == b"begun\nover\n"

    assert alice.ended(other)["state"] == "finished"
    directory = daemon.place.state / "jobs" / job
    wait_for((directory / "exit").exists, what="end of bob's job")
    assert (directory / "stdout").read_bytes() == b"begun\nover\n"
    assert "revoked" in bob("info").error
    assert len(daemon.log_lines("bob@.*revoked")) == 2  # both of his connections


def test_new_certificate(start_daemon: StartDaemon, own: Certificates) -> None:
    """After the reload the new certificate is shown; who is connected stays so."""
    daemon = start_daemon(certs=own)
    alice = Twctl(daemon, own.of("alice"))
    gate = daemon.gate()
    job = alice.shell(f"echo begun; {gate.wait}; echo over")
    before = serial_of(daemon)

    with alice.start("tail", "-f", job) as reader:
        reader.until(b"begun\n")
        renew_server(own)
        done = reload(daemon)
        after = serial_of(daemon)
        gate.open()

        assert done.returncode == 0
        assert before != after
        assert reader.finish().stdout == b"begun\nover\n"

    assert daemon.log_lines("alice@.*connected.*") != []


@pytest.mark.slow
def test_nobody_is_dropped(start_daemon: StartDaemon, own: Certificates) -> None:
    """A reload of a new certificate does not touch a hundred connections."""
    daemon = start_daemon(certs=own, config=f"[clients]\nconnections = {2 * STREAMS}\n")
    contexts = [follower(daemon, own, "alice") for _ in range(STREAMS)]
    open_ones = [context.__enter__() for context in contexts]

    try:
        renew_server(own)
        assert reload(daemon).returncode == 0
        serial_of(daemon)

        for connection in open_ones:
            connection.setblocking(False)

            with pytest.raises(ssl.SSLWantReadError):
                connection.recv(1)
    finally:
        for context in contexts:
            context.__exit__(None, None, None)


def test_authority_that_is_not_trusted_any_more(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """Who came by an authority that is taken out of ca.pem goes; others stay."""
    one, two = Authority.root("One"), Authority.root("Two")
    certs = directory_of(tmp_path, one.server(), one, two)
    one.client("alice").save(tmp_path, "alice")
    two.client("bob").save(tmp_path, "bob")
    daemon = start_daemon(certs=certs)

    with (
        follower(daemon, certs, "alice") as hers,
        follower(daemon, certs, "bob") as his,
    ):
        replace(certs.ca, pem(one.certificate))
        assert reload(daemon).returncode == 0

        assert b"does not trust the authority of your certificate" in rest(
            his, within=SOON
        )
        hers.setblocking(False)

        with pytest.raises(ssl.SSLWantReadError):
            hers.recv(1)


@pytest.mark.slow
def test_end_of_a_certificate(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """A connection ends when its certificate does; its job goes on."""
    root = Authority.root()
    certs = directory_of(tmp_path, root.server(), root)
    daemon = start_daemon(
        certs=certs, config="[server]\nping_interval = 0.5\nping_timeout = 60\n"
    )
    short = root.client("alice", ends=8 * SECOND)
    ends = short.certificate.not_valid_after_utc.timestamp()
    alice = Twctl(daemon, short.save(tmp_path, "alice"))
    gate = daemon.gate()
    job = alice.shell(f"echo begun; {gate.wait}; echo over")

    with alice.start("tail", "-f", job) as reader:
        reader.until(b"begun\n")
        done = reader.finish(within=20)
        over = time.time()

    assert ends <= over < ends + 5
    assert done.code != 0
    assert re.search("your certificate .*expired at 20", done.stderr)
    assert len(daemon.log_lines("alice@.*your certificate .*expired at 20")) == 1
    gate.open()
    wait_for((daemon.place.state / "jobs" / job / "exit").exists, what="end")


def replace(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Put *content* in the place of *path* at once, as one should."""
    new = path.with_name("new")
    new.write_bytes(content)
    new.chmod(mode)
    new.rename(path)


def truncate(certs: Certificates) -> None:
    cert = certs.of("server").cert
    cert.write_bytes(cert.read_bytes()[:300])


def encrypt(certs: Certificates) -> None:
    key = certs.of("server").key
    plain = key.rename(certs.directory / "plain.pem")
    subprocess.run(
        ["openssl", "pkey", "-in", plain, "-aes256", "-passout", "pass:x", "-out", key],
        check=True,
    )


def outdate(certs: Certificates) -> None:
    authority = Authority.of(certs)
    (certs.directory / "crl.pem").write_bytes(
        authority.revoke(begins=-2 * DAY, ends=-DAY)
    )


def lose_names(certs: Certificates) -> None:
    nameless: Signed = Authority.of(certs).server(names=())
    nameless.save(certs.directory, "server")


# What is done to the files, and what the operator reads about it.
SPOILT: Final[dict[str, tuple[Callable[[Certificates], object], str]]] = {
    "no key": (
        lambda certs: certs.of("server").key.unlink(),
        "server-key.pem does not",
    ),
    "open key": (
        lambda certs: certs.of("server").key.chmod(0o644),
        r"server-key\.pem is open to others than its owner; 'chmod 600 .*server-key",
    ),
    "another's key": (
        lambda certs: os.chown(certs.of("server").key, 12345, -1),
        r"server-key\.pem belongs to another account, with the id 12345; 'chown 0 ",
    ),
    "key of another": (
        lambda certs: replace(
            certs.of("server").key, certs.of("alice").key.read_bytes()
        ),
        r"server-key\.pem is not the key of .*server\.pem",
    ),
    "encrypted key": (encrypt, r"server-key\.pem is encrypted"),
    "half a certificate": (truncate, r"server\.pem cannot be used: .* is cut off"),
    "no names": (lose_names, r"server\.pem has no subject alternative name"),
    "empty ca": (lambda certs: certs.ca.write_bytes(b""), r"ca\.pem cannot be used"),
    "old list": (
        outdate,
        r"crl\.pem expired at 20.* nobody would be let in.*--renew-crl",
    ),
    "empty list": (
        lambda certs: (certs.directory / "crl.pem").touch(),
        r"crl\.pem cannot be used",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_spoilt_files(start_daemon: StartDaemon, own: Certificates, name: str) -> None:
    """A reload of files that cannot be used says so, and all stays as it was."""
    spoil, words = SPOILT[name]
    before = {path: path.read_bytes() for path in own.directory.glob("*.pem")}
    daemon = start_daemon(certs=own)
    alice = Twctl(daemon, own.of("alice"))
    serial = serial_of(daemon)
    spoil(own)

    done = reload(daemon)

    assert done.returncode == 1
    assert re.search(words, done.stderr)
    assert len(daemon.log_lines(words)) == 1
    own.ca.write_bytes(before[own.ca])  # the client needs it too
    assert serial_of(daemon) == serial
    assert alice("info").code == 0

    (own.directory / "crl.pem").unlink(missing_ok=True)

    for path, content in before.items():
        replace(path, content)

    assert reload(daemon).returncode == 0
    assert alice("info").code == 0


@pytest.mark.parametrize("name", SPOILT)
def test_start_with_spoilt_files(place: Place, own: Certificates, name: str) -> None:
    """A start says the same, and so does --check."""
    spoil, words = SPOILT[name]
    spoil(own)

    started = try_to_start("--listen", "127.0.0.1:0", *directories(place, own))
    checked = try_to_start("--check", *directories(place, own))

    assert (started.returncode, checked.returncode) == (1, 1)
    assert re.search(words, started.stderr)
    assert re.search(words, checked.stdout)


def test_link_to_the_key(start_daemon: StartDaemon, own: Certificates) -> None:
    """A key that is a link is followed, and a reload takes what it leads to then."""
    key = own.of("server").key
    target = key.rename(own.directory / "today.pem")
    key.symlink_to(target.name)
    daemon = start_daemon(certs=own)
    serial = serial_of(daemon)
    Authority.of(own).server().save(own.directory, "tomorrow")
    replace(own.of("server").cert, (own.directory / "tomorrow.pem").read_bytes())
    key.unlink()
    key.symlink_to("tomorrow-key.pem")

    done = reload(daemon)

    assert done.returncode == 0
    assert serial_of(daemon) != serial


def test_what_ends_soon(start_daemon: StartDaemon, own: Certificates) -> None:
    """The log of a start and --check say what ends within 30 days, and what to do."""
    words = r"server\.pem expires at 20.*; remove server\.pem, run gen_certs\.sh again"
    Authority.of(own).server(ends=10 * DAY).save(own.directory, "server")
    daemon = start_daemon(certs=own)

    checked = try_to_start("--check", *directories(daemon.place, own))

    assert len(daemon.log_lines(words)) == 1
    assert re.search(words, checked.stdout)
    assert "ERROR certificates" not in checked.stdout
