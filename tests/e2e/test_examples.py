"""The client in another language, which was written from protocol.md alone."""

import os
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_server
from typing import Final

import pytest

from teleworkerd.protocol.codec import encode
from teleworkerd.protocol.messages import ALPN, Message
from teleworkerd.protocol.responses import OutputChunk, OutputResponse, ServerHello
from tests.e2e.commandline import Twctl
from tests.e2e.daemon import Daemon
from tests.e2e.pki import Certificates
from tests.e2e.proxy import Fault, Proxy
from tests.protocol.vectors import load


NODE: Final = shutil.which("node")
EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "node"
SIZE: Final = 5 << 20
WITHIN: Final = 40  # seconds

# Decodes each line of hex, and encodes it again; says what comes of that in JSON.
CODEC: Final = """
import { createInterface } from "node:readline";
import { decode, encode } from "%s/msgpack.mjs";
const text = (value) => JSON.stringify(value, (_, v) =>
  typeof v === "bigint" ? `${v}` : v instanceof Map ? [...v] : v);
for await (const line of createInterface({ input: process.stdin })) {
  let found = "refused";
  try {
    const value = decode(Buffer.from(line, "hex"));
    found = text(decode(encode(value))) === text(value) ? value.type : "changed";
  } catch {}
  console.log(found);
}
"""


@pytest.fixture(autouse=True)
def _node() -> None:
    """Be sure that there is Node.js; where everything must run it has to be."""
    if NODE is None:
        assert not os.environ.get("CI"), "node is missing: install nodejs"
        pytest.skip("node is not installed")


class Node:
    """The example as a command line, for alice."""

    def __init__(self, address: str, certs: Certificates, ca: Path | None = None):
        alice = certs.of("alice")
        self._options = [
            *("--host", address, "--ca", str(ca or certs.ca)),
            *("--cert", str(alice.cert), "--key", str(alice.key)),
        ]

    def __call__(self, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        """Call it."""
        return subprocess.run(
            [str(NODE), str(EXAMPLE / "twclient.mjs"), *self._options, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=WITHIN,
        )


@pytest.fixture
def node(daemon: Daemon, certs: Certificates) -> Node:
    """The example, before the daemon."""
    return Node(daemon.address, certs)


def frame(vector: str) -> str:
    """Return a vector without the length before it."""
    return vector.replace(" ", "")[8:]


def test_vectors() -> None:
    """It reads all that protocol.md shows, and nothing that is no msgpack."""
    vectors = load()
    good = [*vectors["messages"], *vectors["tolerated"]]
    done = subprocess.run(
        [str(NODE), "--input-type=module", "-e", CODEC % EXAMPLE],
        input="".join(f"{frame(each['hex'])}\n" for each in good),
        capture_output=True,
        check=True,
        text=True,
        timeout=WITHIN,
    )

    found = done.stdout.split()
    assert len(found) == len(good)
    assert not {"refused", "changed"} & set(found)


def test_run_and_tail(node: Node, alice: Twctl) -> None:
    """A job's bytes are read as they are, verified, and its code is told."""
    started = node("run", "sh", "-c", f"head -c {SIZE} /dev/urandom; exit 3")
    job = started.stdout.decode().strip()
    done = node("tail", "-f", "--exit-code", job)

    assert (started.returncode, done.returncode, done.stderr) == (0, 3, b"")
    assert done.stdout == alice("tail", job).stdout
    assert len(done.stdout) == SIZE


def test_live(node: Node, alice: Twctl) -> None:
    """What a job has written so far ends, unless it is followed."""
    gate = alice.daemon.gate()
    job = alice.shell(f"echo early; {gate.wait}; echo late")
    alice.until_printed(job, b"early")
    now = node("tail", job)
    gate.open()
    all_of_it = node("tail", "-f", job)

    assert now.stdout == b"early\n"
    assert all_of_it.stdout == b"early\nlate\n"


def test_kill(node: Node, alice: Twctl) -> None:
    """A job is ended, once."""
    job = alice.run("sleep", "300")
    first = node("kill", job[:8])
    alice.ended(job)
    second = node("kill", job)

    assert (first.returncode, first.stderr) == (0, b"")
    assert (second.returncode, b"already ended" in second.stderr) == (0, True)
    assert alice.status(job)["signal"] == 9


@pytest.mark.slow
def test_cuts(daemon: Daemon, certs: Certificates, alice: Twctl) -> None:
    """Over a network that is cut again and again each byte arrives once."""
    job = alice.shell(f"head -c {SIZE} /dev/urandom")
    alice.ended(job)

    with Proxy(daemon.address, usual=Fault(down=400_000)) as proxy:
        done = Node(proxy.address, certs)("tail", "-f", job)
        accepted = proxy.accepted

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == alice("tail", job).stdout
    assert accepted > SIZE // 400_000


def test_stranger(daemon: Daemon, certs: Certificates) -> None:
    """A server that another authority has signed is none, at once."""
    other = certs.of("alice").cert

    done = Node(daemon.address, certs, ca=other)("run", "true")

    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"twclient: error: ")


def test_unknown_job(node: Node) -> None:
    """What the server says is wrong is said."""
    done = node("tail", "nosuch")

    assert done.returncode == 1
    assert (
        done.stderr
        == b"twclient: error: there is no job 'nosuch'; see 'twctl list -a'\n"
    )


@pytest.mark.parametrize("arguments", [(), ("run",), ("fly",), ("tail", "--no")])
def test_mistakes(node: Node, arguments: tuple[str, ...]) -> None:
    """A mistake is told with how it is right."""
    done = node(*arguments)

    assert done.returncode == 2
    assert b"usage: twclient.mjs" in done.stderr


@contextmanager
def lying(certs: Certificates, *answers: Message, rest: bytes = b"") -> Iterator[str]:
    """Be a server that greets one client, and then says *answers* and *rest*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(
        certs.directory / "server.pem", certs.directory / "server-key.pem"
    )
    context.load_verify_locations(certs.ca)
    context.set_alpn_protocols([ALPN])

    with create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            accepted, _ = listening.accept()

            with context.wrap_socket(accepted, server_side=True) as sock:
                sock.sendall(b"".join(encode(ServerHello((1,), "liar", "alice"))))
                seen = b""

                while b"output" not in seen:
                    seen += sock.recv(1 << 16)

                data = b"".join(b"".join(encode(answer)) for answer in answers)
                sock.sendall(data + rest)
                sock.recv(1 << 16)  # it hangs up

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join(WITHIN)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("answers", "rest", "why"),
    [
        ((OutputResponse(1, "j", 0), OutputChunk(1, 1, b"x")), b"", b"offset 1, not 0"),
        ((OutputResponse(1, "j", 5),), b"", b"offset 5, not 0"),
        ((OutputResponse(1, "j", 0),), b"\0\0\0\2\xc1\xc1", b"the byte 0xc1"),
        ((OutputResponse(1, "j", 0),), b"\xff\xff\xff\xff", b"a frame has"),
    ],
)
def test_liar(
    certs: Certificates, answers: tuple[Message, ...], rest: bytes, why: bytes
) -> None:
    """From a server that breaks the rules nothing is taken for good."""
    with lying(certs, *answers, rest=rest) as address:
        done = Node(address, certs)("tail", "-f", "j")

    assert (done.returncode, done.stdout) == (1, b"")
    assert why in done.stderr
