"""Copies a job's output, or the wanted part of it, to local descriptors."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, aclosing
from dataclasses import dataclass, field

from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import Stream
from twctl.commands.dropping import GapNotices
from twctl.commands.loop import while_read
from twctl.commands.meanwhile import meanwhile
from twctl.commands.prefixing import Target
from twctl.commands.replay import Replay, show
from twctl.commands.writing import JsonLines, Raw, Stamped, Writer
from twctl.cutting import Cut
from twctl.job import RemoteJob
from twctl.lookback import Selection, Wanted, begins_line, select
from twctl.reading import Reading
from twctl.sink import Sink
from twctl.stamps import Stamper
from twctl.verify import DigestMismatch


@dataclass(frozen=True, slots=True)
class Copy:
    """What goes where: which part of which streams, to which descriptors, how.

    *target* opens a descriptor, *around* is put around what writes bytes as they are;
    with *named* JSON says of which job it is, and with *progress* a bar on stderr says
    how far a long copy has come.
    """

    descriptors: Mapping[Stream, int]
    wanted: Wanted = field(default_factory=Wanted)
    interleave: bool = False
    json: bool = False
    named: bool = False
    progress: bool = False
    target: Callable[[int], Target] = Sink
    around: Callable[[Writer], Writer] = lambda writer: writer


async def copy_output(job: RemoteJob, copy: Copy) -> JobStatus | None:
    """Copy, and return the job's last status if all of its output was read.

    Raises `BrokenPipeError` as soon as nobody reads stdout any more.
    """
    [status] = await copy_outputs([(job, copy)])
    return status


async def copy_outputs(
    wanted: Iterable[tuple[RemoteJob, Copy]],
    *,
    ended: Callable[[RemoteJob, JobStatus | None], None] = lambda *_: None,
) -> list[JobStatus | None]:
    """Copy of several jobs at once, as `copy_output` does; *ended* hears of each."""

    async def copy_one(job: RemoteJob, copy: Copy) -> JobStatus | None:
        status = await _Copying(job, copy).run()
        ended(job, status)
        return status

    async def copy_all() -> list[JobStatus | None]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(copy_one(job, copy)) for job, copy in wanted]

        return [task.result() for task in tasks]

    try:
        return await while_read(copy_all())
    except BaseExceptionGroup as errors:
        raise _first(errors) from None


class _Copying:
    """One call of `copy_output`."""

    def __init__(self, job: RemoteJob, copy: Copy) -> None:
        self._job = job
        self._copy = copy
        self._notices = GapNotices(job.id)
        self._replay = Replay(copy.descriptors.keys())
        self._sinks: dict[int, Target] = {}
        self._json: JsonLines | None = None
        self._mismatch: DigestMismatch | None = None

    async def run(self) -> JobStatus | None:
        with ExitStack() as stack:
            stack.callback(self._notices.close)

            for fd in {*self._copy.descriptors.values()}:
                self._sinks[fd] = self._copy.target(fd)
                stack.callback(self._sinks[fd].close)

            if self._copy.json:
                job = self._job.id if self._copy.named else None
                self._json = JsonLines(self._sinks[1], job=job)

            async with AsyncExitStack() as showing:
                if self._copy.progress:
                    progress = show(self._job, self._replay, self._copy.wanted)
                    await showing.enter_async_context(meanwhile(progress))

                readings = await self._read_all()

            status = _last_status(readings)

            if self._json is not None:
                await self._json.flush()

            for sink in self._sinks.values():
                await sink.finish()

            if self._mismatch is not None:
                raise self._mismatch

            if self._json is not None and status is not None:
                verified = {s: v for r in readings for s, v in r.verified.items()}
                await self._json.end(status, verified)

        return status

    async def _read_all(self) -> Sequence[Reading]:
        streams = list(self._copy.descriptors)

        if self._copy.interleave:
            return [await self._read(streams)]

        if len(streams) == 1:
            return [await self._read(streams)]

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._read([stream])) for stream in streams]

        return [task.result() for task in tasks]

    async def _read(self, streams: Sequence[Stream]) -> Reading:
        """Copy one stream, or both as one."""
        selection = await select(self._job, streams, self._copy.wanted)
        self._replay.begin(selection.starts)
        reading = self._job.read(selection.request)

        if selection.cut.is_over():
            return reading

        try:
            writer = await self._writer(selection)
            await self._copy_items(reading, selection.cut, writer)
        except DigestMismatch as error:
            # What else is read shall come to its end all the same.
            self._mismatch = error

        return reading

    async def _copy_items(self, reading: Reading, cut: Cut, writer: Writer) -> None:
        async with aclosing(reading.items()) as items:
            async for item in items:
                self._replay.see(item)
                before, piece = cut.split(item)

                if before is not None:
                    writer.pass_over(before)

                if piece is not None:
                    self._notices.see(piece)
                    await writer.write(piece)

                if cut.is_over():
                    break

    async def _writer(self, selection: Selection) -> Writer:
        if self._json is not None:
            return self._json

        sinks = {s: self._sinks[fd] for s, fd in self._copy.descriptors.items()}

        if not self._copy.wanted.times:
            return self._copy.around(Raw(sinks))

        starts = selection.starts

        # Lines are those of what one descriptor gets.
        if len({*sinks.values()}) == 1:
            stamper = Stamper(at_line_start=await begins_line(self._job, starts))
            return Stamped(sinks, dict.fromkeys(starts, stamper))

        stampers = {
            stream: Stamper(at_line_start=await begins_line(self._job, {stream: start}))
            for stream, start in starts.items()
        }
        return Stamped(sinks, stampers)


def _last_status(readings: Sequence[Reading]) -> JobStatus | None:
    """Return the last status if all readings came to the end."""
    status = None

    for reading in readings:
        if reading.status is None:
            return None

        status = reading.status

    return status


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]

    return error
