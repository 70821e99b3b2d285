"""Over a network that cuts, delays and swallows, every byte arrives once."""

import asyncio
import hashlib
import os
import random
import re
import signal
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

import twctl
from teleworkerd.protocol.messages import InfoRequest
from teleworkerd.protocol.responses import InfoResponse
from tests.e2e.commandline import Twctl
from tests.e2e.daemon import Daemon, StartDaemon
from tests.e2e.pki import Certificates
from tests.e2e.proxy import Fault, Proxy
from tests.e2e.waiting import wait_for
from twctl import blocking, session
from twctl.profile import Profile


pytestmark = pytest.mark.timeout(90)

OFTEN: Final = Fault(after=0.1)
VARIANCE: Final = 10  # bytes; not all signatures have the same length
NOTICE: Final = re.compile(rb"twctl: [^\n]*; connecting again\n")


@pytest.fixture
def proxy(daemon: Daemon) -> Iterator[Proxy]:
    """A network that is in order until the test wants it otherwise."""
    with Proxy(daemon.address) as between:
        yield between


@pytest.fixture
def far(daemon: Daemon, certs: Certificates, proxy: Proxy) -> Twctl:
    """The command line of alice on the other side of the proxy."""
    return beyond(proxy, daemon, certs)


def beyond(
    proxy: Proxy,
    daemon: Daemon,
    certs: Certificates,
    environment: Mapping[str, str] | None = None,
) -> Twctl:
    """Return the command line of alice on the other side of *proxy*."""
    settings = {"TWCTL_HOST": proxy.address, **(environment or {})}
    return Twctl(daemon, certs.of("alice"), environment=settings)


def connect(
    proxy: Proxy, certs: Certificates
) -> AbstractAsyncContextManager[twctl.Client]:
    """Connect the library as alice."""
    alice = certs.of("alice")
    return twctl.connect(proxy.address, ca=certs.ca, cert=alice.cert, key=alice.key)


@pytest.fixture
def profile(proxy: Proxy, certs: Certificates) -> Profile:
    """How alice connects through the proxy."""
    host, port = proxy.address.split(":")
    alice = certs.of("alice")
    return Profile(host, int(port), certs.ca, alice.cert, alice.key)


@pytest.fixture
def hello(proxy: Proxy, profile: Profile) -> int:
    """How many bytes come until a client may ask."""
    with blocking.connect(profile):
        return proxy.down


@pytest.fixture
def question(proxy: Proxy, profile: Profile) -> int:
    """How many bytes a client sends until it has asked what is short."""
    with blocking.connect(profile) as session:
        session.ask(InfoRequest(0), InfoResponse)
        return proxy.up


@dataclass(frozen=True, slots=True)
class Noise:
    """Random bytes in a file, and a script that writes them slowly."""

    file: Path
    data: bytes

    def script(self, seconds: float) -> str:
        """Write it in twenty pieces a second."""
        count = int(seconds * 20)
        size = -(-len(self.data) // count)
        return (
            f"for i in $(seq 0 {count - 1}); do"
            f" dd if={self.file} bs={size} skip=$i count=1 status=none; sleep 0.05;"
            " done"
        )


@pytest.fixture(scope="module")
def noise(daemon: Daemon) -> Noise:
    """Some 300 KB."""
    data = random.Random(7).randbytes(300_007)
    file = daemon.place.shared / "noise"
    file.write_bytes(data)
    return Noise(file, data)


def split(stderr: str) -> tuple[bytes, int]:
    """Return what a job wrote to stderr, and how many notices stood in it."""
    return NOTICE.subn(b"", stderr.encode())


def digest(data: bytes | bytearray) -> str:
    """Return what `status` would show for *data*."""
    return hashlib.sha256(data).hexdigest()


@contextmanager
def bad_for(proxy: Proxy, seconds: float) -> Iterator[None]:
    """Reset each connection that is 100 ms old, for some seconds."""
    proxy.usual = OFTEN
    end = threading.Timer(seconds, lambda: setattr(proxy, "usual", Fault()))
    end.start()

    try:
        yield
    finally:
        end.cancel()
        end.join()


@pytest.mark.parametrize(
    "seconds", [2, pytest.param(20, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_tail_over_resets(
    alice: Twctl, far: Twctl, proxy: Proxy, noise: Noise, seconds: float
) -> None:
    """A reader that is cut off every 100 ms gets all, with one notice."""
    job = alice.shell(noise.script(seconds))

    with bad_for(proxy, seconds):
        done = far("tail", "-f", job, within=seconds + 30)

    assert (done.code, split(done.stderr)) == (0, (b"", 1))
    assert digest(done.stdout) == digest(noise.data)
    assert proxy.accepted > seconds


def test_run_over_resets(far: Twctl, proxy: Proxy, noise: Noise) -> None:
    """`run -f` starts one job, copies both streams, and ends with its code."""
    text = b"".join(b"%d\n" % number for number in range(20_000))
    file = noise.file.with_name("text")
    file.write_bytes(text)
    out, err = noise.script(2), Noise(file, text).script(2)

    with bad_for(proxy, 2):
        done = far(
            "run",
            "-f",
            "--name",
            "resets",
            "sh",
            "-c",
            f"({out}) & ({err}) >&2; wait; exit 7",
        )

    assert done.code == 7
    assert digest(done.stdout) == digest(noise.data)
    assert split(done.stderr) == (text, 1)
    assert len(jobs_of_name(far, "resets")) == 1


def test_wait_over_resets(alice: Twctl, far: Twctl, proxy: Proxy) -> None:
    """`wait` outlasts the bad time and gives the job's code."""
    job = alice.shell("sleep 2; exit 5")

    with bad_for(proxy, 2):
        done = far("wait", job)

    assert (done.code, done.stdout, split(done.stderr)) == (5, b"5\n", (b"", 1))
    assert proxy.accepted > 3


async def test_library_over_resets(
    alice: Twctl, certs: Certificates, proxy: Proxy, noise: Noise
) -> None:
    """The library's reader gets each byte once, in order, whatever happens."""
    job = alice.shell(noise.script(1.5))
    data = bytearray()

    with bad_for(proxy, 1.5):
        async with connect(proxy, certs) as client:
            async for chunk in client.job(job).output():
                assert chunk.offset == len(data)
                data += chunk.data

            status = await client.job(job).wait()

    assert digest(data) == digest(noise.data)
    assert status.exit_code == 0
    assert proxy.accepted > 3


async def test_cut_after_any_size(
    alice: Twctl, certs: Certificates, proxy: Proxy, noise: Noise
) -> None:
    """Wherever a replay is cut, also within the handshake, it comes out whole."""
    job = alice.run("cat", str(noise.file))
    alice.ended(job)
    sizes = [*range(0, 5000, 331), *range(5000, 300_000, 28_813)]

    for size in sizes:
        proxy.faults = [Fault(down=size), Fault(down=size + 1000)]

        async with connect(proxy, certs) as client:
            assert await read(client, job) == noise.data

    for size in range(0, 4000, 331):
        proxy.faults = [Fault(up=size), Fault(up=size + 100)]

        async with connect(proxy, certs) as client:
            assert await read(client, job) == noise.data

    assert proxy.accepted > 2 * len(sizes)


async def read(client: twctl.Client, job: str) -> bytes:
    """Return all that a job has written to stdout."""
    return b"".join([chunk.data async for chunk in client.job(job).output()])


async def test_narrow_link(
    alice: Twctl, certs: Certificates, proxy: Proxy, noise: Noise
) -> None:
    """A link that never lasts for a whole chunk is used for smaller ones."""
    job = alice.run("cat", str(noise.file))
    alice.ended(job)
    proxy.usual = Fault(down=40_000)

    async with connect(proxy, certs) as client:
        assert await read(client, job) == noise.data

    assert proxy.accepted > len(noise.data) // 40_000


@pytest.mark.parametrize(
    "fault", [Fault(rate=400_000), Fault(delay=0.03)], ids=["throttled", "delayed"]
)
def test_slow_link(
    alice: Twctl, far: Twctl, proxy: Proxy, noise: Noise, fault: Fault
) -> None:
    """A link that is slow is no outage."""
    job = alice.run("cat", str(noise.file))
    proxy.usual = fault

    done = far("tail", "-f", job)

    assert (done.code, done.stdout, done.stderr) == (0, noise.data, "")
    assert proxy.accepted == 1


async def test_black_hole(
    daemon: Daemon,
    alice: Twctl,
    certs: Certificates,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A connection on which nothing comes any more is found out by pings."""
    monkeypatch.setattr(session, "PING_AFTER", 0.05)
    monkeypatch.setattr(session, "LOST_AFTER", 0.5)
    gate = daemon.gate()
    job = alice.shell(f"echo before; {gate.wait}; echo after")

    async with connect(proxy, certs) as client:
        output = client.job(job).output()
        before = await anext(output)
        proxy.stall()
        gate.open()
        after = [chunk async for chunk in output]

    assert before.data == b"before\n"
    assert b"".join(chunk.data for chunk in after) == b"after\n"
    assert proxy.accepted == 2


@pytest.mark.parametrize("watch", ["top", "events"])
async def test_cut_before_its_turn(
    alice: Twctl, certs: Certificates, proxy: Proxy, watch: str
) -> None:
    """What waits for its turn to be asked when the connection is cut is asked again."""
    job = alice.run("sleep", "300")

    async with connect(proxy, certs) as client:
        waiting = asyncio.create_task(client.job(job).wait())
        await client.info()  # the wait was asked before it
        assert client._link._session is not None
        client._link._session._exchanges._slots = asyncio.Semaphore(0)
        watched: AsyncGenerator[twctl.Sample | twctl.News, None] = (
            client.top() if watch == "top" else client.events()
        )
        first = asyncio.ensure_future(anext(watched))
        await asyncio.sleep(0)
        proxy.reset()
        assert job in jobs_in(await first)
        await watched.aclose()
        assert not waiting.done()
        alice("kill", job)
        await waiting


def jobs_in(news: twctl.Sample | twctl.News) -> list[str]:
    """Return the IDs of those that are told of."""
    if isinstance(news, twctl.Sample):
        return [use.status.id for use in news.jobs]

    return [each.job for each in news.jobs]


@pytest.mark.parametrize("arguments", [("tail", "-f"), ("wait",)], ids=" ".join)
def test_server_gone_for_good(
    daemon: Daemon,
    certs: Certificates,
    proxy: Proxy,
    question: int,
    arguments: tuple[str, ...],
) -> None:
    """When nobody is there any more: 125, and one line with what can be done."""
    far = beyond(proxy, daemon, certs, {"TWCTL_RETRY_FOR": "1"})
    gate = daemon.gate()
    job = far.shell(f"echo up; {gate.wait}")

    with far.start(*arguments, job) as watching:
        wait_for(lambda: proxy.up > question + VARIANCE, what="its question")
        proxy.refuse()
        proxy.reset()
        done = watching.finish()

    gate.open()
    rest, notices = split(done.stderr)
    assert (done.code, notices) == (125, 1)
    assert re.fullmatch(rb"twctl: error: [^\n]+\n", rest)
    assert b"nothing listens there" in rest
    assert re.search(rb"gave up connecting again after 1(\.\d)? s", rest)
    assert b"twctl " + arguments[0].encode() in rest
    assert job.encode() in rest


def test_daemon_killed(start_daemon: StartDaemon, certs: Certificates) -> None:
    """Both processes dead is no end of the output: `run -f` says so with 125."""
    own = start_daemon()
    alice = Twctl(own, certs.of("alice"), environment={"TWCTL_RETRY_FOR": "0.5"})

    with alice.start("run", "-f", "sh", "-c", "echo up; exec sleep 1000") as watching:
        watching.until(b"up\n")
        keeper, server = own.keeper.pid, own.server.pid
        os.kill(keeper, signal.SIGSTOP)  # it would start another server
        os.kill(server, signal.SIGKILL)
        os.kill(keeper, signal.SIGKILL)
        done = watching.finish()

    own.process.wait()
    start_daemon()  # ends the job that was left

    rest, notices = split(done.stderr)
    assert (done.code, done.stdout, notices) == (125, b"up\n", 1)
    assert b"tail -f --from-offset 3 " in rest
    assert b"tail -f --from-offset 0 --err " in rest


@pytest.mark.parametrize("how", ["option", "environment"])
def test_without_reconnecting(
    daemon: Daemon, certs: Certificates, proxy: Proxy, how: str
) -> None:
    """Who wants no second connection gets 125 at the first reset."""
    option, environment = ["--no-reconnect"], {}

    if how == "environment":
        option, environment = [], {"TWCTL_RETRY_FOR": "0"}

    far = beyond(proxy, daemon, certs, environment)
    gate = daemon.gate()
    job = far.shell(f"echo up; {gate.wait}")
    accepted = proxy.accepted

    with far.start("tail", "-f", *option, job) as reading:
        reading.until(b"up\n")
        proxy.reset()
        done = reading.finish()

    gate.open()
    assert (done.code, done.stdout) == (125, b"up\n")
    assert re.fullmatch(r"twctl: error: [^\n]*--from-offset 3 [^\n]*\n", done.stderr)
    assert proxy.accepted == accepted + 1


@pytest.mark.parametrize("arguments", [("run",), ("run", "-f")], ids=" ".join)
def test_lost_response_of_a_start(
    far: Twctl, proxy: Proxy, hello: int, arguments: tuple[str, ...]
) -> None:
    """A reset before the response has come starts no second job."""
    name = f"lost{len(arguments)}"

    for more in (VARIANCE, 50):
        proxy.faults = [Fault(down=hello + more)]
        done = far(*arguments, "--name", name, "true")

        assert done.code == 0
        assert proxy.faults == []

    assert len(jobs_of_name(far, name)) == 2


def jobs_of_name(twctl: Twctl, name: str) -> list[dict[str, object]]:
    """Return the jobs with this name."""
    done = twctl("list", "-a", "--filter", f"name={name}", "-o", "json")
    assert isinstance(done.json, list)
    return done.json


def test_cut_between_the_streams(alice: Twctl, far: Twctl, proxy: Proxy) -> None:
    """Wherever two streams are cut, each comes out whole."""
    job = alice.shell("seq 1 30000; seq 30001 60000 >&2")
    out = b"".join(b"%d\n" % number for number in range(1, 30_001))
    err = b"".join(b"%d\n" % number for number in range(30_001, 60_001))
    alice.ended(job)

    for size in (3500, 100_000, 170_000, 200_000, 300_000):
        proxy.faults = [Fault(down=size), Fault(down=size)]

        done = far("tail", "-f", "--all", job)

        assert done.code == 0
        assert done.stdout == out
        assert split(done.stderr) == (err, 1)
