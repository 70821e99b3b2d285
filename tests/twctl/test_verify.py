"""What is read is compared with what the job wrote."""

import asyncio
import hashlib
import itertools
import random
import threading
from collections.abc import AsyncIterable

import pytest

import twctl
from teleworkerd.protocol.status import StreamStatus
from teleworkerd.protocol.types import Chunk, Gap, Stream
from tests.twctl.fake import FakeServer
from tests.twctl.fake_output import JOB_ID, FakeJob, make_status
from twctl.client import Client
from twctl.profile import Profile
from twctl.verify import BATCH, SMALL, Digest, DigestMismatch


pytestmark = pytest.mark.timeout(30)

DATA = random.Random(1).randbytes(3 * BATCH + 5)


def known(data: bytes, *, dropped: int = 0) -> StreamStatus:
    """Return what the server says of a stream that has kept *data*."""
    size = len(data) + dropped
    return StreamStatus(0, size, hashlib.sha256(data).digest(), dropped)


def ended(stdout: bytes, stderr: bytes = b"") -> FakeJob:
    """Return a job that has written this and has ended."""
    status = make_status(stdout=known(stdout), stderr=known(stderr))
    return FakeJob(status, {Stream.STDOUT: stdout, Stream.STDERR: stderr})


async def size(output: AsyncIterable[Chunk]) -> int:
    """Read all and return how much it was."""
    return sum([len(chunk.data) async for chunk in output])


@pytest.mark.parametrize("step", [1000, SMALL - 1, SMALL, 256 << 10, len(DATA)])
async def test_any_chunks(step: int) -> None:
    """The digest is that of all bytes, however they come."""
    digest = Digest(Stream.STDOUT)

    for offset in range(0, len(DATA), step):
        data = DATA[offset : offset + step]
        await digest.add(Chunk(Stream.STDOUT, offset, data))

    assert await digest.check(make_status(stdout=known(DATA)))
    digest.close()


async def test_large_then_small() -> None:
    """What is small waits for its turn behind what is large."""
    digest = Digest(Stream.STDERR)
    cuts = [0, BATCH, BATCH + 1, BATCH + 3, 2 * BATCH, 2 * BATCH + 1, len(DATA)]

    for offset, stop in itertools.pairwise(cuts):
        await digest.add(Chunk(Stream.STDERR, offset, DATA[offset:stop]))

    assert await digest.check(make_status(stderr=known(DATA)))
    digest.close()


async def test_gaps_do_not_count() -> None:
    """What was dropped has an offset and no bytes."""
    digest = Digest(Stream.STDOUT)

    await digest.add(Chunk(Stream.STDOUT, 0, b"ab"))
    await digest.add(Gap(Stream.STDOUT, 2, 1000))
    await digest.add(Chunk(Stream.STDOUT, 1000, b"cd"))

    assert await digest.check(make_status(stdout=known(b"abcd", dropped=998)))


async def test_digest_that_is_not_told() -> None:
    """Nothing is compared with nothing."""
    assert not await Digest(Stream.STDOUT).check(make_status())


async def test_difference() -> None:
    """A byte that differs is an error with the facts."""
    digest = Digest(Stream.STDOUT)
    await digest.add(Chunk(Stream.STDOUT, 0, b"good"))

    with pytest.raises(DigestMismatch, match=rf"stdout of job {JOB_ID} .* SHA") as e:
        await digest.check(make_status(stdout=known(b"evil")))

    error = e.value
    assert (error.stream, error.offset) == (Stream.STDOUT, 4)
    assert error.expected == hashlib.sha256(b"evil").digest()
    assert error.got == hashlib.sha256(b"good").digest()


async def test_too_little() -> None:
    """Too few bytes are a difference too, and are counted."""
    digest = Digest(Stream.STDOUT)
    await digest.add(Chunk(Stream.STDOUT, 0, b"go"))

    with pytest.raises(DigestMismatch, match="2 of 4 bytes came"):
        await digest.check(make_status(stdout=known(b"good")))


async def test_thread_ends() -> None:
    """The thread of a digest ends when it is closed."""
    before = {*threading.enumerate()}
    digest = Digest(Stream.STDOUT)
    await digest.add(Chunk(Stream.STDOUT, 0, DATA))
    (thread,) = {*threading.enumerate()} - before

    digest.close()

    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()


async def test_output_of_the_library(server: FakeServer, profile: Profile) -> None:
    """Whoever reads all gets an error if it is not what was written."""
    server.jobs[JOB_ID] = job = ended(b"good", b"fine")
    job.output[Stream.STDERR] = b"evil"

    async with Client(profile) as client:
        remote = client.job(JOB_ID)

        assert await size(remote.output()) == 4
        assert await size(remote.output("stderr", offset=1)) == 3

        for output in (remote.output("stderr"), remote.interleaved()):
            with pytest.raises(twctl.DigestMismatch):
                await size(output)


async def test_over_an_outage(server: FakeServer, profile: Profile) -> None:
    """What was read before and after a cut is verified as one."""
    server.jobs[JOB_ID] = ended(DATA)
    server.cuts = [BATCH] * 2

    async with Client(profile) as client:
        assert await size(client.job(JOB_ID).output()) == len(DATA)

        server.cuts = [BATCH]
        server.jobs[JOB_ID].output[Stream.STDOUT] = DATA[:-1] + b"?"
        await client._link._session.close()  # type: ignore[union-attr]

        with pytest.raises(twctl.DigestMismatch):
            await size(client.job(JOB_ID).output())
