"""How output is read in order, by time, over gaps, and until it is removed."""

import asyncio
import time
from pathlib import Path

import pytest

from teleworkerd.protocol.messages import (
    Cancel,
    Credit,
    InterleaveRequest,
    OutputRequest,
    RemoveRequest,
    Request,
)
from teleworkerd.protocol.responses import (
    DoneResponse,
    ErrorResponse,
    InterleaveEnd,
    InterleaveResponse,
    OutputChunk,
    OutputEnd,
    OutputGap,
    OutputResponse,
)
from teleworkerd.protocol.types import Stream
from tests.e2e.pki import Certificates
from tests.server.peers import error_of
from tests.server.scene import CREDIT, Scene, scene


STDOUT, STDERR = Stream


def say(play: Scene, job: str) -> None:
    """Let the job write to both streams in turn, at the times 10, 20, 30 and 40."""
    play.executor.write(job, b"one", STDOUT, at=10)
    play.executor.write(job, b"two", STDERR, at=20)
    play.executor.drop(job, 5, STDOUT)
    play.executor.write(job, b"three", STDOUT, at=40)


IN_ORDER = [(STDOUT, b"one"), (STDERR, b"two"), (STDOUT, 5), (STDOUT, b"three")]


async def test_both_in_order(certs: Certificates, tmp_path: Path) -> None:
    """Both streams come in their order, and their end has the status."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        say(play, job)
        now, end = await play.runs(InterleaveRequest(1, job, credit=CREDIT))
        play.executor.exit(job)
        late, last = await play.runs(InterleaveRequest(1, job, credit=CREDIT))

    assert now == late == IN_ORDER
    assert (end.stdout, end.stderr, end.complete, end.status) == (13, 3, False, None)
    assert (last.stdout, last.stderr, last.complete) == (13, 3, True)
    assert last.status is not None
    assert last.status.exit_code == 3
    assert last.status.stdout.dropped == 5


async def test_both_from_anywhere(certs: Certificates, tmp_path: Path) -> None:
    """A reader goes on at its two offsets, with a time for each run."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        say(play, job)
        request = InterleaveRequest(1, job, 2, 1, credit=CREDIT, times=True)
        opened = await play.alice.ask(request, InterleaveResponse)
        messages = [await play.alice.receive() for _ in range(5)]

    assert (opened.stdout, opened.stderr) == (2, 1)
    assert messages == [
        OutputChunk(1, 2, b"e", STDOUT, (2, 10)),
        OutputChunk(1, 1, b"wo", STDERR, (1, 20)),
        OutputGap(1, 3, 8, STDOUT),
        OutputChunk(1, 8, b"three", STDOUT, (8, 40)),
        InterleaveEnd(1, 13, 3, complete=False),
    ]


@pytest.mark.parametrize(("stdout", "stderr"), [(14, 0), (0, 4)])
async def test_both_beyond_the_end(
    certs: Certificates, tmp_path: Path, stdout: int, stderr: int
) -> None:
    """Each of the two offsets must be there."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        say(play, job)
        request = InterleaveRequest(1, job, stdout, stderr, credit=CREDIT)
        error = await play.alice.ask(request, ErrorResponse)

    assert error_of(error) == (1, "offset_out_of_range")


async def test_follow_both(certs: Certificates, tmp_path: Path) -> None:
    """Who follows both gets what comes, and the end."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        request = InterleaveRequest(1, job, follow=True, credit=CREDIT)
        await play.alice.ask(request, InterleaveResponse)
        say(play, job)
        play.executor.exit(job, sealed=False)
        found, end = await play.rest_of_runs()

    assert found == IN_ORDER
    assert end.complete
    assert end.status is not None
    assert end.status.stdout.sha256 is not None


async def test_one_credit_for_both(certs: Certificates, tmp_path: Path) -> None:
    """Chunks of both streams cost the same credit, and gaps cost none."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        say(play, job)
        await play.alice.ask(InterleaveRequest(1, job, credit=7), InterleaveResponse)
        messages = [await play.alice.receive() for _ in range(4)]
        play.alice.flush(Credit(1, CREDIT))
        found, _ = await play.rest_of_runs()

    assert messages == [
        OutputChunk(1, 0, b"one", STDOUT),
        OutputChunk(1, 0, b"two", STDERR),
        OutputGap(1, 3, 8, STDOUT),
        OutputChunk(1, 8, b"t", STDOUT),
    ]
    assert found == [(STDOUT, b"hree")]


async def test_gap_and_times(certs: Certificates, tmp_path: Path) -> None:
    """A single stream has gaps and times, too, and no name in its chunks."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        say(play, job)
        request = OutputRequest(1, job, offset=1, credit=CREDIT, times=True)
        await play.alice.ask(request, OutputResponse)
        messages = [await play.alice.receive() for _ in range(4)]

    assert messages == [
        OutputChunk(1, 1, b"ne", times=(1, 10)),
        OutputGap(1, 3, 8),
        OutputChunk(1, 8, b"three", times=(8, 40)),
        OutputEnd(1, 13, complete=False),
    ]


async def test_window_of_time(certs: Certificates, tmp_path: Path) -> None:
    """With a time to begin at the server says where that is."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        say(play, job)
        play.executor.exit(job)
        request = OutputRequest(1, job, credit=CREDIT, since=11, until=40, follow=True)
        opened = await play.alice.ask(request, OutputResponse)
        gap = await play.alice.expect(OutputGap)
        end = await play.alice.expect(OutputEnd)
        both = InterleaveRequest(1, job, credit=CREDIT, since=11, until=40)
        begun = await play.alice.ask(both, InterleaveResponse)
        found, last = await play.rest_of_runs()

    assert opened.offset == 3
    assert (gap.offset, gap.stop) == (3, 8)
    assert (end.offset, end.complete, end.status) == (8, False, None)
    assert (begun.stdout, begun.stderr) == (3, 0)
    assert found == IN_ORDER[1:3]
    assert (last.stdout, last.stderr, last.complete) == (8, 3, False)


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("credit", [0, CREDIT])
async def test_until_soon(
    certs: Certificates, tmp_path: Path, *, credit: int, both: bool
) -> None:
    """A reader ends when its time has come, also one that had no credit till then."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        moment = time.time_ns() + 50_000_000
        request: Request = (
            InterleaveRequest(1, job, follow=True, credit=credit, until=moment)
            if both
            else OutputRequest(1, job, follow=True, credit=credit, until=moment)
        )
        await play.alice.ask(request, InterleaveResponse if both else OutputResponse)
        play.executor.write(job, b"early", at=moment - 1)

        # A loop's timer may be early, by less than a millisecond.
        while (left := moment - time.time_ns()) > 0:  # noqa: ASYNC110 - a clock tells no event
            await asyncio.sleep(left / 1e9)

        play.executor.write(job, b"late", at=moment)
        await asyncio.sleep(0.03)
        play.alice.flush(Credit(1, 10))
        chunk = await play.alice.expect(OutputChunk)
        end = await play.alice.receive()

    assert chunk.data == b"early"
    assert end == (
        InterleaveEnd(1, 5, 0, complete=False)
        if both
        else OutputEnd(1, 5, complete=False)
    )


@pytest.mark.parametrize("kind", [OutputRequest, InterleaveRequest])
async def test_until_comes_before_the_credit(
    certs: Certificates,
    tmp_path: Path,
    kind: type[OutputRequest | InterleaveRequest],
) -> None:
    """A reader that had something to send, which is now too late, ends without it."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        moment = time.time_ns() + 20_000_000
        play.alice.flush(kind(1, job, follow=True, until=moment))
        await play.alice.receive()
        play.executor.write(job, b"late", at=moment)
        await asyncio.sleep((moment - time.time_ns()) / 1e9 + 0.03)
        play.alice.flush(Credit(1, 10))
        end = await play.alice.receive()

    assert end in (
        OutputEnd(1, 0, complete=False),
        InterleaveEnd(1, 0, 0, complete=False),
    )


@pytest.mark.parametrize("kind", [OutputRequest, InterleaveRequest])
async def test_cancelled(
    certs: Certificates,
    tmp_path: Path,
    kind: type[OutputRequest | InterleaveRequest],
) -> None:
    """A reader that cancels gets an end at what it has."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        say(play, job)
        play.alice.flush(kind(1, job, follow=True, credit=3))
        await play.alice.receive()
        chunk = await play.alice.expect(OutputChunk)
        play.alice.flush(Cancel(1))
        end = await play.alice.receive()

    assert chunk.data == b"one"
    assert end == (
        OutputEnd(1, 3, complete=False)
        if kind is OutputRequest
        else InterleaveEnd(1, 3, 0, complete=False)
    )


@pytest.mark.parametrize("credit", [0, 1])
@pytest.mark.parametrize("kind", [OutputRequest, InterleaveRequest])
async def test_removed_under_a_reader(
    certs: Certificates,
    tmp_path: Path,
    kind: type[OutputRequest | InterleaveRequest],
    credit: int,
) -> None:
    """Who reads a job that is removed hears so, as soon as it may go on."""
    async with scene(certs, tmp_path) as play:
        job = await play.run()
        say(play, job)
        play.executor.exit(job)
        play.alice.flush(kind(1, job, follow=True, credit=credit))
        await play.alice.receive()

        if credit:
            await play.alice.expect(OutputChunk)

        await play.alice.ask(RemoveRequest(2, job), DoneResponse)
        play.alice.flush(Credit(1, CREDIT))
        error = await play.alice.expect(ErrorResponse)

    assert error_of(error) == (1, "job_removed")
    assert error.details == {"job": job}
