"""Where the wanted part of a job's output begins, found by seeking."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from teleworkerd.protocol.errors import OffsetOutOfRange
from teleworkerd.protocol.messages import InterleaveRequest, OutputRequest
from teleworkerd.protocol.responses import InterleaveResponse
from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import Chunk, Gap, Stream
from twctl.cutting import Cut, part
from twctl.job import RemoteJob
from twctl.lines import last_lines
from twctl.subscription import OutputQuery, offsets
from twctl.verify import stream_status


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which part of the output: from *offset* on, from *since*, and so on.

    Of the last *lines* or *size* bytes, and of *since* and *offset*, what begins
    latest counts. The times are in ns since the epoch.
    """

    offset: int = 0
    lines: int | None = None
    size: int | None = None
    since: int | None = None
    until: int | None = None
    follow: bool = False
    times: bool = False

    @property
    def is_counted(self) -> bool:
        """Whether it begins at so many lines or bytes before the end."""
        return self.lines is not None or self.size is not None


@dataclass(frozen=True, slots=True)
class Selection:
    """What to ask for, where that begins, and what to cut off from what comes."""

    request: OutputQuery
    starts: Mapping[Stream, int]
    cut: Cut


async def select(
    job: RemoteJob, streams: Iterable[Stream], wanted: Wanted
) -> Selection:
    """Return how to read the *wanted* part of one stream, or of both as one.

    Asks the server as often as it needs to; what it reads is only near the end.
    """
    request = _request(job, list(streams), wanted)
    starts = offsets(request)

    # Whoever counts or stamps has to know where it begins.
    if wanted.since is not None and (wanted.is_counted or wanted.times):
        starts = await _where(job, request)
        request = _at(request, starts)

    if not wanted.is_counted:
        return Selection(request, starts, Cut(starts))

    status = await job.status()
    ends = await find_ends(job, status, starts, wanted)

    # What has come since we counted would be too much.
    has_more = not (wanted.follow or status.state.is_final)
    stops = ends if has_more else None
    return await _count(job, request, wanted, starts, ends, stops)


async def find_ends(
    job: RemoteJob, status: JobStatus, streams: Iterable[Stream], wanted: Wanted
) -> dict[Stream, int]:
    """Return where the *wanted* part of *streams* ends that was there by *status*."""
    ends = {stream: stream_status(status, stream).end for stream in streams}

    # What is still to come cuts nothing off.
    if wanted.until is None or wanted.until > job.now():
        return ends

    until = _request(job, list(ends), Wanted(since=wanted.until))
    before = await _where(job, until)
    return {stream: min(end, before[stream]) for stream, end in ends.items()}


async def begins_line(job: RemoteJob, starts: Mapping[Stream, int]) -> bool:
    """Return whether a line begins where the streams, taken as one, do.

    Where bytes are missing before that, nobody knows, and it does not.
    """
    latest: tuple[int, bool] | None = None

    for stream in sorted(starts, key=list(Stream).index):
        offset = starts[stream]

        if not offset:
            continue

        try:
            before = await _read(job, stream, offset - 1, offset, times=True)
        except OffsetOutOfRange:
            before = []  # who reads from there will be told

        last = before[0] if before else None
        ends_line, time = False, 0

        if isinstance(last, Chunk):
            ends_line = last.data == b"\n"
            time = last.times[-1] if last.times else 0

        # What came at one time came on stdout first.
        if latest is None or time >= latest[0]:
            latest = time, ends_line

    return latest is None or latest[1]


async def _count(  # noqa: PLR0913, PLR0917 - all that is known so far
    job: RemoteJob,
    request: OutputQuery,
    wanted: Wanted,
    starts: Mapping[Stream, int],
    ends: Mapping[Stream, int],
    stops: Mapping[Stream, int] | None,
) -> Selection:
    is_one = len(starts) == 1

    if wanted.size is not None:
        # Of two streams as one, what comes just before shows whether a line begins.
        size = wanted.size + (0 if is_one else 1)
        starts = {s: max(start, ends[s] - size) for s, start in starts.items()}
        excess = sum(max(0, ends[s] - start) for s, start in starts.items())
        excess -= wanted.size
        cut = Cut(starts, size=max(0, excess), stops=stops)
    else:
        # Of two streams as one, more of either than its own last lines is never needed.
        count = (wanted.lines or 0) + (0 if is_one or not wanted.lines else 1)
        starts = {
            stream: await _last_lines(job, stream, start, ends[stream], count)
            for stream, start in starts.items()
        }
        request = _at(request, starts)
        lines = 0 if is_one else await _lines(job, request, starts, ends)
        excess = max(0, lines - (wanted.lines or 0))
        cut = Cut(starts, lines=excess, stops=stops)

    return Selection(_at(request, starts), starts, cut)


async def _last_lines(
    job: RemoteJob, stream: Stream, first: int, end: int, count: int
) -> int:
    async def read(offset: int, stop: int) -> Sequence[Chunk | Gap]:
        return await _read(job, stream, offset, stop)

    return max(first, await last_lines(read, first=first, end=end, count=count))


async def _lines(
    job: RemoteJob,
    request: OutputQuery,
    starts: Mapping[Stream, int],
    ends: Mapping[Stream, int],
) -> int:
    """Return how many lines there are from *starts* up to *ends*, in their order."""
    request = replace(request, follow=False, until=None, times=False)
    if all(start >= ends[stream] for stream, start in starts.items()):
        return 0

    cut = Cut(starts, stops=ends)
    count, last = 0, b"\n"

    async with aclosing(job.read(request).items()) as items:
        async for item in items:
            _, piece = cut.split(item)

            if isinstance(piece, Chunk):
                count += piece.data.count(b"\n")
                last = piece.data[-1:]

            if cut.is_over():
                break

    return count + (last != b"\n")


async def _where(job: RemoteJob, request: OutputQuery) -> dict[Stream, int]:
    """Return where *request* begins."""
    reading = job.read(replace(request, follow=False, until=None, credit=1))

    async with aclosing(reading.items()) as items:
        await anext(items, None)

    opened = reading.opened
    assert opened is not None  # noqa: S101 - it comes before all else

    if isinstance(opened, InterleaveResponse):
        return {Stream.STDOUT: opened.stdout, Stream.STDERR: opened.stderr}

    return dict.fromkeys(offsets(request), opened.offset)


async def _read(
    job: RemoteJob, stream: Stream, offset: int, stop: int, *, times: bool = False
) -> list[Chunk | Gap]:
    """Return what there is from *offset* up to *stop*; a gap may go on beyond."""
    request = OutputRequest(
        0, job.id, stream, offset, credit=stop - offset, times=times
    )
    pieces: list[Chunk | Gap] = []

    async with aclosing(job.read(request).items()) as items:
        async for item in items:
            if isinstance(item, Gap):
                pieces.append(item)
            elif piece := part(item, item.offset, min(item.stop, stop)):
                pieces.append(piece)

            if item.stop >= stop:
                break

    return pieces


def _request(job: RemoteJob, streams: list[Stream], wanted: Wanted) -> OutputQuery:
    request: OutputQuery = (
        OutputRequest(0, job.id, streams[0], wanted.offset)
        if len(streams) == 1
        else InterleaveRequest(0, job.id, wanted.offset, wanted.offset)
    )
    return replace(
        request,
        follow=wanted.follow,
        since=wanted.since,
        until=wanted.until,
        times=wanted.times,
    )


def _at(request: OutputQuery, starts: Mapping[Stream, int]) -> OutputQuery:
    """Return *request* with offsets in place of what it began with."""
    if isinstance(request, OutputRequest):
        return replace(request, offset=starts[request.stream], since=None)

    return replace(
        request,
        stdout=starts[Stream.STDOUT],
        stderr=starts[Stream.STDERR],
        since=None,
    )
