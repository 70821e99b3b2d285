"""A crowd at the door of a real daemon, and good clients who come all the same."""

import resource
import socket
import ssl
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from teleworkerd.protocol.codec import pack
from tests.e2e.commandline import Twctl
from tests.e2e.daemon import Daemon, StartDaemon
from tests.e2e.pki import Certificates, Identity, issue
from tests.e2e.strangers import PATIENCE, context_of
from tests.e2e.waiting import wait_for


pytestmark = pytest.mark.timeout(90)

MIB: Final = 1 << 20
CROWD: Final = 1000
ROOMY: Final = """
[server]
half_open = 2048
half_open_per_source = 256
handshake_timeout = 60
"""


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """Let this process have as many sockets as a crowd needs."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = limits

    if hard < 4096:
        pytest.skip("needs 4096 descriptors")

    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


class Crowd(ExitStack):
    """Strangers who begin to shake hands, and do not go on."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__()
        host, _, port = daemon.address.rpartition(":")
        self._address = (host, int(port))

    def come(self, source: str, data: bytes = b"") -> socket.socket:
        """Let one more come from *source*, who says *data*."""
        raw = self.enter_context(
            socket.create_connection(
                self._address, timeout=PATIENCE, source_address=(source, 0)
            )
        )
        raw.sendall(data)
        return raw


def half_a_hello() -> bytes:
    """Return the first half of what a client of TLS says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(
        incoming, outgoing, server_hostname="localhost"
    )

    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()

    hello = outgoing.read()
    return hello[: len(hello) // 2]


@contextmanager
def client(
    daemon: Daemon, context: ssl.SSLContext, *, source: str = "127.0.0.1"
) -> Iterator[tuple[ssl.SSLSocket, bytes]]:
    """Connect as a good client does; yield the connection and the server's words."""
    host, _, port = daemon.address.rpartition(":")

    with (
        socket.create_connection(
            (host, int(port)), timeout=PATIENCE, source_address=(source, 0)
        ) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secure,
    ):
        yield secure, secure.recv(1 << 16)


def handshakes(daemon: Daemon, context: ssl.SSLContext, count: int) -> Sequence[float]:
    """Let so many good clients come, one by one; return how long each took."""
    times = []

    for _ in range(count):
        begin = time.monotonic()

        with client(daemon, context) as (_, words):
            assert b"hello" in words

        times.append(time.monotonic() - begin)

    return times


def resident(daemon: Daemon) -> int:
    """Return how many bytes of memory the server has."""
    status = Path(f"/proc/{daemon.server.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) << 10


def open_files(daemon: Daemon) -> int:
    """Return how many descriptors the server has."""
    return len(list(Path(f"/proc/{daemon.server.pid}/fd").iterdir()))


def wait_until_quiet(daemon: Daemon, files: int) -> None:
    """Wait until nobody is connected any more."""
    wait_for(lambda: open_files(daemon) <= files, what="end of all connections")


@pytest.mark.slow
def test_thousand_at_the_door(start_daemon: StartDaemon, certs: Certificates) -> None:
    """1,000 who do not go on cost less than 60 MiB, and good clients little time."""
    daemon = start_daemon(config=ROOMY)
    files = open_files(daemon)
    context = context_of(certs, certs.of("alice"))
    alone = handshakes(daemon, context, 40)
    wait_until_quiet(daemon, files)
    before = resident(daemon)
    part = half_a_hello()

    with Crowd(daemon) as crowd:
        for number in range(CROWD):
            crowd.come(f"127.0.0.{2 + number % 10}", part if number % 2 else b"")

        wait_for(lambda: open_files(daemon) >= files + CROWD, what="the crowd")
        crowded = handshakes(daemon, context, 40)
        during = resident(daemon)

        assert open_files(daemon) >= files + CROWD

    wait_until_quiet(daemon, files)
    assert during - before < 60 * MIB
    # Other tests may run beside this one.
    assert statistics.median(crowded) < 5 * statistics.median(alone) + 0.02
    wait_for(lambda: resident(daemon) < before + 30 * MIB, what="memory given back")


@pytest.mark.slow
def test_flood_from_the_same_address(
    start_daemon: StartDaemon, certs: Certificates
) -> None:
    """While 2,000 come from one address, good clients from there all get in."""
    daemon = start_daemon()
    files = open_files(daemon)
    context = context_of(certs, certs.of("alice"))
    part = half_a_hello()

    with Crowd(daemon) as crowd:
        for number in range(2000):
            crowd.come("127.0.0.1", part if number % 2 else b"")

            if number % 50 == 49:
                handshakes(daemon, context, 1)

        handshakes(daemon, context, 5)
        wait_for(lambda: open_files(daemon) <= files + 130, what="bound of a source")

    [line] = daemon.log_lines("too many handshakes under way")
    assert "refused 127.0.0.1:" in line


@pytest.mark.slow
def test_steady_flood_from_elsewhere(
    start_daemon: StartDaemon, certs: Certificates
) -> None:
    """100 slow strangers a second keep no good client of another address out."""
    daemon = start_daemon()
    over = threading.Event()

    def flood() -> None:
        with Crowd(daemon) as crowd:
            while not over.wait(0.01):
                crowd.come("127.0.0.2", b"\x16\x03")

    thread = threading.Thread(target=flood)
    thread.start()

    try:
        context = context_of(certs, certs.of("alice"))

        for _ in range(30):
            handshakes(daemon, context, 1)
            over.wait(0.1)
    finally:
        over.set()
        thread.join(PATIENCE)

    assert daemon.log_lines("refused 127.0.0.2:.* too many handshakes")
    assert not daemon.log_lines("refused 127.0.0.1:")


def test_connections(start_daemon: StartDaemon, certs: Certificates) -> None:
    """A name has its share of the connections, all have theirs, an admin gets in."""
    daemon = start_daemon(
        config="[server]\nconnections = 4\nreserved = 2\n"
        '[clients]\nconnections = 1\n[access]\nadmin = ["bob"]\n'
    )
    alice, bob = (context_of(certs, certs.of(name)) for name in ("alice", "bob"))

    with ExitStack() as stack:
        _, words = stack.enter_context(client(daemon, alice))
        assert b"hello" in words
        refused, words = stack.enter_context(client(daemon, alice))
        assert b"too_many" in everything(refused, words)

        for _ in range(3):
            _, words = stack.enter_context(client(daemon, bob))
            assert b"hello" in words

        refused, words = stack.enter_context(client(daemon, bob))
        assert b"unavailable" in everything(refused, words)


def everything(connection: ssl.SSLSocket, words: bytes) -> bytes:
    """Return *words* and what else comes until the end."""
    while more := connection.recv(1 << 16):
        words += more

    return words


def test_start_rate(start_daemon: StartDaemon, certs: Certificates) -> None:
    """Who starts jobs too fast is told how fast one may, and when to try again."""
    daemon = start_daemon(config="[clients]\nstart_rate = 0.01\nstart_burst = 1\n")
    alice = Twctl(daemon, certs.of("alice"))
    alice.run("true")
    refused = alice("run", "true")

    assert refused.code != 0
    assert "more than 0.01 jobs a second" in refused.error
    assert "try again in" in refused.error
    Twctl(daemon, certs.of("bob")).run("true")


def test_running_jobs(start_daemon: StartDaemon, certs: Certificates) -> None:
    """Who has as many jobs as one may is told what to do."""
    daemon = start_daemon(config="[clients]\nrunning_jobs = 1\n")
    alice = Twctl(daemon, certs.of("alice"))
    job = alice.run("sleep", "600")
    refused = alice("run", "true")
    assert "as many running jobs as one name may, 1;" in refused.error
    assert "twctl stop" in refused.error
    assert alice("kill", job).code == 0
    alice.ended(job)
    alice.run("true")


@pytest.mark.slow
def test_certificate_ends(
    start_daemon: StartDaemon, certs: Certificates, tmp_path: Path
) -> None:
    """A connection ends with its certificate; the jobs that it started go on."""
    daemon = start_daemon(config="[server]\nping_interval = 0.5\n")
    alice = Twctl(daemon, certs.of("alice"))
    gate = daemon.gate()
    job = alice.shell(f"{gate.wait}; echo done")
    brief: Identity = issue(
        certs, "/CN=alice", into=tmp_path / "brief", ends=timedelta(seconds=4)
    )

    with client(daemon, context_of(certs, brief)) as (secure, words):
        assert b"hello" in words
        secure.sendall(pack({"type": "hello", "version": 1, "agent": "test"}))
        rest = everything(secure, b"")

    assert b"permission_denied" in rest
    assert b"has expired at" in rest
    gate.open()
    assert alice.ended(job)["exit_code"] == 0
    assert alice.output(job) == "done\n"
