"""Readers that stop, and readers without number: nobody else pays for them."""

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

import twctl
from tests.e2e.commandline import Twctl
from tests.e2e.daemon import Daemon, clean_environment
from tests.e2e.pki import ROOT, Certificates
from tests.e2e.processes import Process


SIZE: Final = 24 << 20
MIB: Final = 1 << 20

# Opens N subscriptions from byte 0, says so, then does not read a byte more.
HOARDER: Final = """
import asyncio, sys, twctl

async def main():
    host, ca, cert, key, job, count = sys.argv[1:]
    clients = [
        twctl.connect(host, ca=ca, cert=cert, key=key) for _ in range(int(count))
    ]

    for client in clients:
        await client.__aenter__()

    readers = [client.job(job).output() for client in clients]
    await asyncio.gather(*(anext(reader) for reader in readers))
    print("reading", flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


@contextmanager
def hoarder(
    daemon: Daemon, certs: Certificates, job: str, count: int
) -> Iterator[subprocess.Popen[bytes]]:
    """Run *count* readers in one process, which is stopped once each has a chunk."""
    identity = certs.of("alice")
    files = (str(certs.ca), str(identity.cert), str(identity.key))

    with subprocess.Popen(
        [sys.executable, "-c", HOARDER, daemon.address, *files, job, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=clean_environment(),
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"reading\n"
            process.send_signal(signal.SIGSTOP)
            yield process
        finally:
            process.kill()


def resident(*processes: Process) -> int:
    """Return the bytes of memory that *processes* have to themselves."""
    return sum(
        int(line.split()[1]) << 10
        for one in processes
        for line in Path(f"/proc/{one.pid}/status").read_text().splitlines()
        if line.startswith("RssAnon:")
    )


def written(daemon: Daemon, job: str, stream: str = "stdout") -> bytes:
    """Return what the daemon keeps of the job's output."""
    return (daemon.place.state / "jobs" / job / stream).read_bytes()


@pytest.mark.timeout(120)
def test_stopped_readers(daemon: Daemon, alice: Twctl) -> None:
    """Readers that are stopped hold up neither the job nor others, and finish later."""
    gate = daemon.gate()
    job = alice.shell(f"echo begin; {gate.wait}; head -c {SIZE} /dev/urandom")
    stopped = [alice.popen("tail", "-f", job) for _ in range(3)]

    try:
        for reader in stopped:
            assert reader.stdout is not None
            assert os.read(reader.stdout.fileno(), 6) == b"begin\n"
            reader.send_signal(signal.SIGSTOP)

        with alice.start("tail", "-f", job) as other:
            gate.open()
            digest = hashlib.sha256(other.finish().stdout).digest()

        assert alice.ended(job)["state"] == "finished"
        assert digest == hashlib.sha256(written(daemon, job)).digest()

        for reader in stopped:
            reader.send_signal(signal.SIGCONT)

        rest = [reader.communicate(timeout=60)[0] for reader in stopped]
        assert [reader.returncode for reader in stopped] == [0, 0, 0]
        assert {hashlib.sha256(b"begin\n" + data).digest() for data in rest} == {digest}
    finally:
        for reader in stopped:
            reader.kill()
            reader.communicate()


@pytest.mark.timeout(120)
def test_memory_of_readers_that_do_not_read(
    daemon: Daemon, certs: Certificates, alice: Twctl
) -> None:
    """A hundred readers that stop in the middle cost the daemon less than 128 MiB."""
    gate = daemon.gate()
    job = alice.shell(
        f"head -c {4 * MIB} /dev/urandom; {gate.wait}; head -c {SIZE} /dev/zero"
    )
    alice.until_printed(job, b"")
    before = resident(daemon.server, daemon.keeper)

    with hoarder(daemon, certs, job, 100):
        gate.open()
        assert alice.ended(job)["output"]["stdout"]["bytes"] == 4 * MIB + SIZE
        cost = resident(daemon.server, daemon.keeper) - before

    assert cost < 128 * MIB


@pytest.mark.timeout(120)
def test_last_chunk_and_exit_together(daemon: Daemon, certs: Certificates) -> None:
    """What a job writes just before it exits is never missing, in 500 runs."""
    identity = certs.of("alice")
    turns = asyncio.Semaphore(8)

    async def follow(client: twctl.Client, number: int) -> tuple[bytes, int | None]:
        async with turns:
            job = await client.run(
                ["sh", "-c", f"echo {number}; printf last >&1; exit 7"]
            )
            data = b"".join([chunk.data async for chunk in job.output()])
            return data, (await job.wait()).exit_code

    async def run() -> list[tuple[bytes, int | None]]:
        async with (
            asyncio.timeout(100),
            twctl.connect(
                daemon.address, ca=certs.ca, cert=identity.cert, key=identity.key
            ) as client,
        ):
            return await asyncio.gather(*(follow(client, n) for n in range(500)))

    assert asyncio.run(run()) == [(b"%d\nlast" % n, 7) for n in range(500)]


def test_equal_order_for_all(daemon: Daemon, alice: Twctl) -> None:
    """Live, late and again: interleaved readers see one and the same sequence."""
    gate = daemon.gate()
    job = alice.shell(
        f"echo begin; {gate.wait}; for i in $(seq 300); do echo o$i; echo e$i >&2; done"
    )

    with (
        alice.start("tail", "-f", "--interleave", job) as one,
        alice.start("tail", "-f", "--interleave", job) as two,
    ):
        one.until(b"begin\n")
        two.until(b"begin\n")
        gate.open()
        live = {one.finish().stdout, two.finish().stdout}

    late = {alice("tail", "--interleave", job).stdout for _ in range(3)}
    lines = late.copy().pop().splitlines()

    assert live == late
    assert len(late) == 1
    assert [line for line in lines if line[:1] == b"o"] == [
        b"o%d" % i for i in range(1, 301)
    ]
    assert [line for line in lines if line[:1] == b"e"] == [
        b"e%d" % i for i in range(1, 301)
    ]
