"""Output from one time on, or up to another: exact, live and late."""

import asyncio
import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teleworkerd.output import joboutput
from teleworkerd.output.digest import Hasher
from teleworkerd.output.joboutput import JobOutput
from teleworkerd.output.subscription import Reading
from teleworkerd.protocol.errors import InvalidRequest
from teleworkerd.protocol.types import Stream
from teleworkerd.settings import OutputConfig
from tests.fakes import DEADLINE
from tests.output.readers import caught_up, runs_of
from tests.output.written import Runs, Written, joined


STDOUT, STDERR = Stream
BOTH = dict.fromkeys(Stream, 0)
CONFIG = OutputConfig(window=2048, chunk=1024, queue_chunks=2)
SOON = 50_000_000  # ns


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


def say(
    written: Written,
    output: JobOutput,
    data: bytes,
    *,
    at: int,
    stream: Stream = STDOUT,
) -> None:
    """Let the job have written *data* at that time, and tell of it."""
    written.write(data, stream)
    written.record(at)
    output.grow(*written.sizes)


async def read(
    output: JobOutput,
    position: dict[Stream, int],
    *,
    follow: bool = True,
    since: int | None = None,
    until: int | None = None,
) -> Runs:
    """Return what such a reader gets up to its end."""
    with output.subscribe(position, follow=follow, since=since, until=until) as reading:
        return await runs_of(reading)


@pytest.mark.parametrize("follow", [True, False])
@pytest.mark.parametrize(
    ("since", "until", "found"),
    [
        (None, None, b"abcdef"),
        (0, None, b"abcdef"),
        (9, None, b"abcdef"),
        (10, None, b"abcdef"),
        (11, None, b"cdef"),
        (20, None, b"cdef"),
        (21, None, b"ef"),
        (30, None, b"ef"),
        (31, None, b""),
        (None, 0, b""),
        (None, 10, b""),
        (None, 11, b"ab"),
        (None, 20, b"ab"),
        (None, 21, b"abcd"),
        (None, 31, b"abcdef"),
        (20, 30, b"cd"),
        (20, 20, b""),
        (11, 19, b""),
        (30, 10, b""),
        (10**18, 1, b""),
    ],
)
async def test_window_of_time(
    written: Written,
    output: JobOutput,
    *,
    since: int | None,
    until: int | None,
    found: bytes,
    follow: bool,
) -> None:
    """What came at `since` is in, what came at `until` is out."""
    for at, data in ((10, b"ab"), (20, b"cd"), (30, b"ef")):
        say(written, output, data, at=at)

    output.end()

    for position in ({STDOUT: 0}, BOTH):
        got = await read(output, position, follow=follow, since=since, until=until)
        assert got == [(STDOUT, found)][: bool(found)]


@pytest.mark.parametrize("position", [{STDOUT: 3}, {STDOUT: 3, STDERR: 0}])
async def test_since_and_offset(
    written: Written, output: JobOutput, position: dict[Stream, int]
) -> None:
    """Of an offset and a time the later one counts; the reader is told which."""
    for at, data in ((10, b"ab"), (20, b"cd"), (30, b"ef")):
        say(written, output, data, at=at)

    output.end()
    found = []

    for since in (10, 20, 30):
        with output.subscribe(position, since=since) as reading:
            begin = reading.offsets[STDOUT]
            found.append((begin, *await runs_of(reading)))

    assert found == [
        (3, (STDOUT, b"def")),
        (3, (STDOUT, b"def")),
        (4, (STDOUT, b"ef")),
    ]


@pytest.mark.parametrize("position", [{STDOUT: 0}, BOTH])
@pytest.mark.parametrize("follow", [True, False])
async def test_since_in_the_future(
    output: JobOutput, position: dict[Stream, int], *, follow: bool
) -> None:
    """Where a time to come will be nobody can say: it is refused, not guessed."""
    moment = time.time_ns() + 3600 * 10**9

    with (
        pytest.raises(InvalidRequest, match="future of the server's clock"),
        output.subscribe(position, follow=follow, since=moment),
    ):
        pass

    assert output.readers == 0


async def test_since_now(written: Written, output: JobOutput) -> None:
    """A client whose clock is a little ahead is no client of the future."""
    say(written, output, b"old", at=10)
    output.end()

    assert await read(output, BOTH, since=time.time_ns() + 10**8) == []


def chosen(written: Written, streams: Sequence[Stream], since: int, until: int) -> Runs:
    """Return what of *streams* came from *since* up to *until*."""
    found: Runs = []
    before = dict.fromkeys(Stream, 0)

    for record in written.records:
        for stream in Stream:
            if stream in streams and since <= record.time < until:
                found += written.runs(stream, before[stream], record.end(stream))

            before[stream] = record.end(stream)

    return joined(found)


@settings(max_examples=50, deadline=None)
@given(
    writes=st.lists(
        st.tuples(
            st.integers(0, 3),
            st.integers(0, 4),
            st.integers(0, 4),
            st.booleans(),
        ),
        max_size=12,
    ),
    since=st.integers(0, 30),
    until=st.integers(0, 40),
    follow=st.booleans(),
)
async def test_any_window_of_time(
    writes: list[tuple[int, int, int, bool]], *, since: int, until: int, follow: bool
) -> None:
    """Each reader gets just what came in its time, in order; gaps as well."""
    with tempfile.TemporaryDirectory() as directory:
        hasher, written = Hasher(1), Written(Path(directory))
        output = JobOutput(written.directory, CONFIG, hasher)
        now = 1

        for number, (later, stdout, stderr, is_kept) in enumerate(writes):
            now += later
            written.write(bytes([number]) * stdout)

            if is_kept:
                written.write(bytes([number]) * stderr, STDERR)
            elif stderr:
                gap = written.drop(stderr, STDERR)
                output.drop(STDERR, gap.offset, gap.stop)

            written.record(now)

        output.grow(*written.sizes)
        output.end()

        for streams in ([STDOUT], [STDERR], [STDOUT, STDERR]):
            position = dict.fromkeys(streams, 0)
            got = await read(output, position, follow=follow, since=since, until=until)
            assert got == chosen(written, streams, since, until)

        hasher.close()


async def until_soon(
    written: Written, output: JobOutput, reading: Reading, until: int
) -> Runs:
    """Write up to and after *until*; return what *reading* gets."""
    reader = asyncio.create_task(runs_of(reading))
    # What came just before, and is told when it is over.
    say(written, output, b"a", at=until - 2)
    say(written, output, b"E", at=until - 1, stream=STDERR)

    await asyncio.sleep((until - time.time_ns()) / 1e9 + 0.001)
    written.write(b"b")
    written.record(until - 1)
    say(written, output, b"c", at=until)
    await asyncio.sleep(0)
    say(written, output, b"d", at=until + 1)
    return await asyncio.wait_for(reader, DEADLINE)


@pytest.mark.parametrize("position", [{STDOUT: 0}, BOTH])
async def test_until_in_the_future(
    written: Written, output: JobOutput, position: dict[Stream, int]
) -> None:
    """A live reader ends then, and gets what a late one gets: no byte of later."""
    until = time.time_ns() + SOON

    with output.subscribe(position, until=until) as reading:
        live = await until_soon(written, output, reading, until)

    wanted = chosen(written, tuple(position), 0, until)
    assert live == await read(output, position, until=until) == wanted
    assert b"b" in {what[-1:] for _, what in wanted if isinstance(what, bytes)}


@pytest.mark.parametrize("position", [{STDOUT: 0}, BOTH])
async def test_until_comes_while_the_client_rests(
    written: Written, output: JobOutput, position: dict[Stream, int]
) -> None:
    """A reader that has something, but may not take it yet, ends in good order."""
    until = time.time_ns() + SOON // 5

    with output.subscribe(position, until=until) as reading:
        say(written, output, b"late", at=until)
        assert await asyncio.wait_for(reading.ready(), DEADLINE)
        await asyncio.sleep(0.05)

        assert reading.take(100) is None
        assert not await asyncio.wait_for(reading.ready(), DEADLINE)


async def test_quiet_job_ends_a_reader(output: JobOutput) -> None:
    """Where nothing comes at all, a reader with `until` ends all the same."""
    begun = time.monotonic()
    found = await read(output, BOTH, until=time.time_ns() + SOON)

    assert found == []
    assert time.monotonic() - begun > 0.9 * SOON / 1e9


async def test_job_ends_before_until(written: Written, output: JobOutput) -> None:
    """A job that ends earlier ends its readers."""
    with output.subscribe({STDOUT: 0}, until=(1 << 63) - 1) as reading:
        waiting = await caught_up(reading)
        say(written, output, b"all", at=time.time_ns())
        output.end()
        assert await asyncio.wait_for(waiting, DEADLINE)

        assert await runs_of(reading) == [(STDOUT, b"all")]


async def test_no_follow_and_until_in_the_future(
    written: Written, output: JobOutput
) -> None:
    """Who does not follow has nothing to wait for."""
    say(written, output, b"all", at=time.time_ns())

    assert await read(output, {STDOUT: 0}, follow=False, until=1 << 62) == [
        (STDOUT, b"all")
    ]


async def test_clock_that_is_set(
    output: JobOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader ends at its time by the clock, when that is set forward, too."""
    monkeypatch.setattr(joboutput, "_CLOCK_CHECK", 0.01)
    hour = 3600 * 10**9
    times = itertools.chain([0, 0, 0], itertools.repeat(2 * hour))
    monkeypatch.setattr(time, "time_ns", lambda: next(times))

    assert await read(output, {STDOUT: 0}, until=hour) == []


async def test_until_just_now(
    written: Written, output: JobOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came before a time that is just over, and is told late, is waited for."""
    monkeypatch.setattr(joboutput, "_CLOCK_CHECK", 0.001)
    now = until = 10**18
    monkeypatch.setattr(time, "time_ns", lambda: now)
    now += 1_000_000

    with output.subscribe({STDOUT: 0}, until=until) as reading:
        waiting = await caught_up(reading)
        say(written, output, b"in time", at=until - 1)
        say(written, output, b"too late", at=until)
        now += SOON

        assert await asyncio.wait_for(waiting, DEADLINE)
        assert await runs_of(reading) == [(STDOUT, b"in time")]


@pytest.mark.parametrize("position", [{STDOUT: 0}, BOTH])
async def test_since_beyond_what_is_told(
    written: Written, output: JobOutput, position: dict[Stream, int]
) -> None:
    """A reader begins no further than is told, though the index may know more."""
    say(written, output, b"told", at=10)
    written.write(b" not yet")
    written.record(20)

    with output.subscribe(position, since=30) as reading:
        assert reading.offsets[STDOUT] == 4
        output.grow(*written.sizes)
        output.end()
        assert await runs_of(reading) == [(STDOUT, b" not yet")]


async def test_until_leaves_nothing_behind(output: JobOutput) -> None:
    """A reader that leaves early takes its timer along."""
    before = asyncio.all_tasks()

    with output.subscribe(BOTH, until=1 << 62):
        assert len(asyncio.all_tasks() - before) == 1

    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
