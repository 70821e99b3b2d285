"""All that one job writes: sizes, digests, restarts, removal."""

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from teleworkerd.output.digest import EMPTY, Hasher
from teleworkerd.output.joboutput import JobOutput
from teleworkerd.protocol.errors import JobRemoved, OffsetOutOfRange
from teleworkerd.protocol.status import StreamStatus
from teleworkerd.protocol.types import Stream
from teleworkerd.settings import OutputConfig
from tests.fakes import DEADLINE, open_descriptors
from tests.output.readers import caught_up, read_now, runs_of, take
from tests.output.written import Written
from tests.scarce import no_descriptors


STDOUT, STDERR = Stream
BOTH = dict.fromkeys(Stream, 0)
CONFIG = OutputConfig(window=2048, chunk=1024, queue_chunks=2)


@pytest.fixture
def hasher() -> Iterator[Hasher]:
    """One thread."""
    hasher = Hasher(1)
    yield hasher
    hasher.close()


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """The files of a job."""
    return Written(tmp_path / "job")


@pytest.fixture
def output(written: Written, hasher: Hasher) -> JobOutput:
    """The job's output; nothing is told yet."""
    return JobOutput(written.directory, CONFIG, hasher)


async def test_all_kinds_of_readers(written: Written, output: JobOutput) -> None:
    """Readers of either stream and of both, with their own pace, see one job."""
    with (
        output.subscribe({STDOUT: 0}) as stdout,
        output.subscribe({STDERR: 0}) as stderr,
        output.subscribe(BOTH) as both,
        output.subscribe({STDOUT: 0}) as lazy,
    ):
        assert output.readers == 4
        waiting = [await caught_up(each) for each in (stdout, stderr, both, lazy)]

        for number in range(40):
            written.write(bytes([number]) * 100, STDERR if number % 3 else STDOUT)
            written.record()
            output.grow(*written.sizes)

            if number % 3 == 0:
                await read_now(stdout, 100)

        output.end()
        assert await asyncio.wait_for(asyncio.gather(*waiting), DEADLINE)
        assert await runs_of(stdout) == []
        assert await runs_of(stderr) == written.runs(STDERR)
        assert await runs_of(lazy, limit=77) == written.runs(STDOUT)
        assert await runs_of(both) == written.order[:1] + [
            run
            for number in range(1, 40, 3)
            for run in (
                (STDERR, bytes([number]) * 100 + bytes([number + 1]) * 100),
                (STDOUT, bytes([number + 2]) * 100),
            )
        ]

    assert output.readers == 0
    assert open_descriptors(written.directory.index) == 0


@pytest.mark.parametrize("position", [{STDOUT: 3}, {STDOUT: 0, STDERR: 1}])
def test_offset_outside_refused(
    written: Written, output: JobOutput, position: dict[Stream, int]
) -> None:
    """An offset that either stream does not have is refused, and nobody reads."""
    written.write(b"ab")
    output.grow(2, 0)

    with pytest.raises(OffsetOutOfRange), output.subscribe(position):
        pass

    assert output.readers == 0


async def test_no_follow_ends_at_what_there_is(
    written: Written, output: JobOutput
) -> None:
    """Without follow, growth after the request is no part of the response."""
    written.write(b"ab")
    written.write(b"E", STDERR)
    written.record()
    output.grow(2, 1)

    with (
        output.subscribe(BOTH, follow=False) as both,
        output.subscribe({STDOUT: 1}, follow=False) as one,
    ):
        written.write(b"cd")
        written.record()
        output.grow(4, 1)

        assert await runs_of(both) == [(STDOUT, b"ab"), (STDERR, b"E")]
        assert await runs_of(one) == [(STDOUT, b"b")]


async def test_status(written: Written, output: JobOutput) -> None:
    """What was kept and what was dropped are all there is; the digest has the kept."""
    written.write(b"ab")
    gap = written.drop(5)
    written.write(b"cd")
    output.drop(gap.stream, gap.offset, gap.stop)
    output.grow(9, 0)
    output.hash()
    sha256 = await output.finish(STDOUT)

    assert output.kept_bytes == 4
    assert sha256 == hashlib.sha256(b"abcd").digest()
    assert output.status(STDOUT, sha256) == StreamStatus(0, 9, sha256, 5)
    assert await output.finish(STDERR) == EMPTY


async def test_all_was_dropped(written: Written, output: JobOutput) -> None:
    """Of a stream of which nothing was kept the digest is that of nothing."""
    gap = written.drop(5)
    written.directory.spool(STDOUT).unlink()
    output.drop(gap.stream, gap.offset, gap.stop)
    output.grow(5, 0)

    assert await output.finish(STDOUT) == EMPTY
    assert output.kept_bytes == 0


async def test_gap_known_too_early(written: Written, output: JobOutput) -> None:
    """A gap beyond what is told counts nothing yet, neither here nor in the digest."""
    written.write(b"abc")
    output.drop(STDOUT, 3, 6)
    output.grow(3, 0)

    assert output.kept_bytes == 3
    assert output.status(STDOUT, None).dropped == 0
    assert await output.finish(STDOUT) == hashlib.sha256(b"abc").digest()


async def test_restore(written: Written, hasher: Hasher) -> None:
    """A later server knows ends and gaps; of a live job no byte that is not told."""
    written.write(b"ab")
    written.drop(3)
    written.write(b"cd")
    written.write(b"E", STDERR)
    written.record()
    written.write(b"not told yet")
    output = JobOutput(written.directory, CONFIG, hasher)
    output.restore(7, 1)
    output.end()

    assert [output.size(stream) for stream in Stream] == [7, 1]
    assert output.status(STDOUT, None).dropped == 3

    with output.subscribe(BOTH) as reading:
        assert await runs_of(reading) == [
            (STDOUT, b"ab"),
            (STDOUT, 3),
            (STDOUT, b"cd"),
            (STDERR, b"E"),
        ]


def test_restore_without_files(tmp_path: Path, hasher: Hasher) -> None:
    """A job whose directory is gone is as long as the store says."""
    output = JobOutput(Written(tmp_path / "job").directory, CONFIG, hasher)

    for path in (tmp_path / "job").iterdir():
        path.unlink()

    (tmp_path / "job").rmdir()
    output.restore(7, 1)
    output.recover()

    assert [output.size(stream) for stream in Stream] == [7, 1]


async def test_recover(written: Written, output: JobOutput) -> None:
    """Of a job that nobody tells of, all is found: recorded, written, dropped."""
    with output.subscribe(BOTH) as reading:
        waiting = await caught_up(reading)
        written.write(b"ab")
        written.record()
        written.write(b"E", STDERR)
        written.drop(3, STDERR)
        written.record()
        written.write(b"not recorded")
        output.recover()
        output.end()

        assert await asyncio.wait_for(waiting, DEADLINE)
        assert await runs_of(reading) == [
            (STDOUT, b"ab"),
            (STDERR, b"E"),
            (STDERR, 3),
            (STDOUT, b"not recorded"),
        ]

    assert open_descriptors(written.directory.index) == 0


async def test_recover_invents_nothing(written: Written, output: JobOutput) -> None:
    """What the index has and the spool has not, and was not dropped, is not there."""
    written.write(b"abcdef")
    written.record()
    written.directory.spool(STDOUT).write_bytes(b"abc")
    output.recover()
    output.end()

    with output.subscribe({STDOUT: 0}) as reading:
        assert await runs_of(reading) == [(STDOUT, b"abc")]

    with output.subscribe(BOTH) as reading:
        assert await runs_of(reading) == [(STDOUT, b"abc")]


async def test_end_gives_up_the_digests(written: Written, output: JobOutput) -> None:
    """A job that is over, for whatever reason, keeps no thread busy."""
    written.write(bytes(5 << 20))
    output.grow(5 << 20, 0)
    output.hash()
    task = output._digests[STDOUT]._task
    output.end()
    assert task is not None
    await asyncio.wait([task])

    assert task.cancelled()
    assert output._digests == {}


async def test_removed(written: Written, output: JobOutput) -> None:
    """All kinds of readers are told, also those who have not read anything yet."""
    written.write(b"ab")
    written.write(b"E", STDERR)
    written.record()
    output.grow(2, 1)
    output.end()

    with (
        output.subscribe({STDERR: 0}) as one,
        output.subscribe(BOTH, follow=False) as both,
        output.subscribe({STDOUT: 0}, times=True, until=1 << 62) as timed,
    ):
        assert await asyncio.wait_for(both.ready(), DEADLINE)
        take(both, 1)
        output.end(JobRemoved("it was removed"))

        for reading in (one, both, timed):
            with pytest.raises(JobRemoved):
                await asyncio.wait_for(reading.ready(), DEADLINE)


@pytest.mark.parametrize("position", [{STDOUT: 0}, BOTH])
async def test_reader_without_descriptors(
    written: Written, output: JobOutput, position: dict[Stream, int]
) -> None:
    """A reader that comes then is refused; one that is there goes on later."""
    written.write(b"abc")
    written.record()
    output.grow(*written.sizes)

    with output.subscribe(position) as reader:
        with no_descriptors():
            with (
                pytest.raises(OSError, match="Too many open files"),
                output.subscribe(position),
            ):
                pass

            with pytest.raises(OSError, match="Too many open files"):
                await read_now(reader, 3)

        assert await read_now(reader, 3) == b"abc"

    assert open_descriptors(written.directory.spool(STDOUT)) == 0


def test_restore_without_descriptors(written: Written, output: JobOutput) -> None:
    """Gaps that cannot be looked for are not taken for none."""
    written.write(b"abc")
    written.drop(4)

    with no_descriptors(), pytest.raises(OSError, match="Too many open files"):
        output.restore(7)
