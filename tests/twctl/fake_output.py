"""What a job of the fake server has written, and where a reader of it is."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from teleworkerd.protocol.messages import InterleaveRequest, OutputRequest, Response
from teleworkerd.protocol.responses import (
    InterleaveEnd,
    InterleaveResponse,
    OutputChunk,
    OutputEnd,
    OutputGap,
    OutputResponse,
)
from teleworkerd.protocol.spec import JobSpec, Limits
from teleworkerd.protocol.status import JobStatus, StreamStatus
from teleworkerd.protocol.types import Gap, JobState, Stream


JOB_ID = "0123abcd-0000-4000-8000-000000000001"


def make_status(**changes: object) -> JobStatus:
    """Return a finished job, with *changes*."""
    status = JobStatus(
        id=JOB_ID,
        owner="alice",
        command=(b"true",),
        state=JobState.FINISHED,
        created_at=1_767_323_045_123_456_789,
        limits=Limits(),
        exit_code=0,
    )
    return replace(status, **changes)  # type: ignore[arg-type]


@dataclass
class FakeJob:
    """A job as the fake server has it; a state that is not final goes on.

    `moves` are times (ns), streams and bytes, in the order in which they came;
    without any, all of `output` came at an unknown time, stdout first. The bytes in
    `gaps` are not told.
    """

    status: JobStatus = field(default_factory=make_status)
    output: dict[Stream, bytes] = field(default_factory=dict)
    moves: list[tuple[int, Stream, bytes]] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    spec: JobSpec | None = None

    def data(self, stream: Stream) -> bytes:
        """Return all of *stream*."""
        if self.moves:
            return b"".join(data for _, to, data in self.moves if to is stream)

        return self.output.get(stream, b"")

    def steps(self) -> Iterator[tuple[int, Stream, int, int]]:
        """Yield time, stream, offset and stop of all that came, in order."""
        moves = self.moves or [(0, s, self.data(s)) for s in Stream]
        ends = dict.fromkeys(Stream, 0)

        for time, stream, data in moves:
            begin, ends[stream] = ends[stream], ends[stream] + len(data)
            yield time, stream, begin, ends[stream]

    def end_at(self, stream: Stream, time: int | None) -> int:
        """Return how far *stream* was before *time*."""
        stops = [
            stop
            for at, to, _, stop in self.steps()
            if to is stream and (time is None or at < time)
        ]
        return stops[-1] if stops else 0

    def told(self) -> JobStatus:
        """Return the status, with the ends of the streams if it has none."""
        return replace(
            self.status,
            stdout=self._stream(self.status.stdout, Stream.STDOUT),
            stderr=self._stream(self.status.stderr, Stream.STDERR),
        )

    def _stream(self, known: StreamStatus, stream: Stream) -> StreamStatus:
        return replace(known, end=known.end or len(self.data(stream)))


class FakeReader:
    """A reader's place in a job's output."""

    def __init__(
        self, job: FakeJob, request: OutputRequest | InterleaveRequest
    ) -> None:
        self.job = job
        self.request = request
        self.offsets = (
            {request.stream: request.offset}
            if isinstance(request, OutputRequest)
            else {Stream.STDOUT: request.stdout, Stream.STDERR: request.stderr}
        )

        if request.since is not None:
            for stream, offset in self.offsets.items():
                self.offsets[stream] = max(offset, job.end_at(stream, request.since))

    def opened(self) -> Response:
        """Return the first response."""
        number, ref = self.request.id, self.job.status.id
        offsets = list(self.offsets.values())

        if len(offsets) == 1:
            return OutputResponse(number, ref, *offsets)

        return InterleaveResponse(number, ref, *offsets)

    def has_more(self) -> bool:
        """Return whether there is anything that could be sent now."""
        return any(
            offset < self.job.end_at(stream, self.request.until)
            for stream, offset in self.offsets.items()
        )

    def next(self, size: int) -> Response | None:
        """Return what comes next, of *size* bytes at most, if there is anything."""
        for _, stream, _, end in self.job.steps():
            offset = self.offsets.get(stream)
            last = self.job.end_at(stream, self.request.until)
            stop = last if len(self.offsets) == 1 else min(end, last)

            if offset is not None and offset < stop:
                return self._piece(stream, offset, stop, size)

        return None

    def end(self) -> Response | None:
        """Return the last response if there is nothing more to come."""
        is_complete = self.job.status.state.is_final and all(
            offset >= len(self.job.data(stream))
            for stream, offset in self.offsets.items()
        )

        if is_complete or self.request.until is not None or not self.request.follow:
            return self.stopped(is_complete=is_complete)

        return None

    def stopped(self, *, is_complete: bool = False) -> Response:
        """Return the last response."""
        status = self.job.told() if is_complete else None

        match [self.request.id, *self.offsets.values()]:
            case [number, offset]:
                return OutputEnd(number, offset, is_complete, status)
            case [number, stdout, stderr]:
                return InterleaveEnd(number, stdout, stderr, is_complete, status)
            case _:
                raise AssertionError

    def _piece(
        self, stream: Stream, offset: int, stop: int, size: int
    ) -> Response | None:
        name = stream if len(self.offsets) > 1 else None

        for gap in self.job.gaps:
            if gap.stream is stream and gap.offset <= offset < gap.stop:
                self.offsets[stream] = min(stop, gap.stop)
                return OutputGap(self.request.id, offset, self.offsets[stream], name)

            if gap.stream is stream and gap.offset > offset:
                stop = min(stop, gap.offset)

        if not size:
            return None

        stop = self.offsets[stream] = min(stop, offset + size)
        data = self.job.data(stream)[offset:stop]
        times = self._times(stream, offset, stop) if self.request.times else ()
        return OutputChunk(self.request.id, offset, data, name, times)

    def _times(self, stream: Stream, offset: int, stop: int) -> tuple[int, ...]:
        if not self.job.moves:
            return ()

        return tuple(
            value
            for time, to, begin, end in self.job.steps()
            if to is stream and begin < stop and end > offset
            for value in (max(begin, offset), time)
        )
