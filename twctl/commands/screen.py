"""`twctl top` on a terminal: a table that is drawn anew with each sample."""

import asyncio
import errno
import heapq
import os
import signal
import tty
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Final

from rich.console import Console, ConsoleOptions
from rich.live import Live
from rich.table import Table
from rich.text import Text

from teleworkerd.protocol.messages import TopRequest
from teleworkerd.protocol.types import MIB
from twctl.client import Client
from twctl.commands.columns import (
    fitting_table,
    least_width,
    left_out,
    rows_shown,
)
from twctl.commands.keyboard import terminal_set
from twctl.exit_codes import ExitCode
from twctl.profile import Profile
from twctl.render import escape, print_warning
from twctl.sampling import JobUse, Sample
from twctl.sizes import sparkline
from twctl.usage import HEADS, cells


_SHOWN: Final = 12  # samples in a sparkline
_RIGHT: Final = frozenset({"CPU", "MEM", "PIDS", "READ/s", "WRITE/s", "OUT/s", "TIME"})
_GIVEN_UP: Final = ("COMMAND", "OUT/s", "WRITE/s", "READ/s", "PIDS")  # in this order
_ABOVE: Final = 2  # lines above the rows
_HOT: Final = 0.9  # of a limit
_ENDING: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)


class Screen:
    """What is on the terminal: the newest sample, and lines of those before."""

    def __init__(self, address: str, *, with_owners: bool) -> None:
        self._address = address
        self._with_owners = with_owners
        self._cpu: dict[str, deque[float]] = {}
        self._memory: dict[str, deque[float]] = {}
        self._lines = {"CPU": self._cpu, "MEM": self._memory}
        self._sample: Sample | None = None
        self._note: str | None = None

    def show(self, sample: Sample) -> None:
        """Have *sample* on it."""
        self._sample, self._note = sample, None
        running = {use.status.id for use in sample.jobs}

        for lines in self._lines.values():
            for job_id in lines.keys() - running:
                del lines[job_id]

        for use in sample.jobs:
            _add(self._cpu, use, use.cpu_percent)
            _add(self._memory, use, use.status.usage.memory_bytes)

    def note(self, text: str) -> None:
        """Have *text* in the head of it, until the next sample."""
        self._note = text

    def __rich_console__(
        self, _: Console, options: ConsoleOptions
    ) -> Iterator[Text | Table]:
        """Draw it, with as much as there is room for."""
        sample = self._sample or Sample(0, ())
        width, lines = options.max_width, options.max_height - _ABOVE
        shown = rows_shown(len(sample.jobs), lines=lines)
        heads, rows = self._fitting(width, _busiest(sample, shown))
        yield self._head()
        yield fitting_table(heads, rows, width=width, right=_RIGHT)

        if missing := len(sample.jobs) - shown:
            yield left_out(missing)

    def _fitting(
        self, width: int, sample: Sample
    ) -> tuple[Sequence[str], list[list[Text]]]:
        """Return the columns for which there is room, and their rows."""
        *layouts, least = self._layouts()

        for heads, shown in layouts:
            rows = self._rows(sample, heads, shown)

            if least_width(heads, rows) <= width:
                return heads, rows

        return least[0], self._rows(sample, *least)

    def _layouts(self) -> Iterator[tuple[Sequence[str], int]]:
        """Yield columns, and how many samples are in a line, from all to the least."""
        heads = [head for head in HEADS if head != "OWNER" or self._with_owners]

        for shown in (_SHOWN, _SHOWN // 2, 0):
            yield heads, shown

        for unwanted in _GIVEN_UP:
            heads = [head for head in heads if head != unwanted]
            yield heads, 0

    def _rows(
        self, sample: Sample, heads: Sequence[str], shown: int
    ) -> list[list[Text]]:
        """Return a row for each job, with so many samples *shown* in its lines."""
        return [
            [
                self._cell(head, text, use, shown)
                for head, text in zip(HEADS, cells(use, sample.at), strict=True)
                if head in heads
            ]
            for use in sample.jobs
        ]

    def _head(self) -> Text:
        if self._sample is None:
            state = "no sample yet"
        else:
            running = sum(not use.status.state.is_final for use in self._sample.jobs)
            state = "no job runs" if running == 0 else f"{running} running"

        note = "" if self._note is None else f"  {self._note}"
        return Text(
            escape(f"{self._address}  {state}  (q ends){note}"),
            "bold",
            no_wrap=True,
            overflow="ellipsis",
        )

    def _cell(self, head: str, text: str, use: JobUse, shown: int) -> Text:
        values = list(self._lines.get(head, {}).get(use.status.id, ()))[-shown:]

        if not (values and shown):
            return Text(text, _style(use))

        limit = use.status.applied.mem if head == "MEM" else None
        line = sparkline(values, top=limit and limit * MIB)
        return Text.assemble((f"{line:>{shown}}", "cyan"), " ", (text, _style(use)))


async def show_live(profile: Profile, request: TopRequest) -> int:
    """Show samples until somebody types q, or there are no more of the jobs named."""
    screen = Screen(profile.address, with_owners=request.owner is not None)
    live = Live(screen, console=Console(), screen=True, auto_refresh=False)

    def note(text: str) -> None:
        screen.note(text)

        if live.is_started:
            live.refresh()
        else:
            print_warning(text)

    async with Client(profile, notice=note, warn=note) as client:
        drawing = asyncio.create_task(_draw(client, request, screen, live))

        with _signals(drawing, live) as ended_by, _keys(drawing):
            try:
                with live:
                    await drawing
            except asyncio.CancelledError:
                # Who typed q, or sent a signal, cancelled the drawing alone.
                if (task := asyncio.current_task()) and task.cancelling():
                    raise
            except OSError as error:
                # A terminal that has gone away says so before the SIGHUP comes.
                if error.errno != errno.EIO:
                    raise

                ended_by.append(signal.SIGHUP)

    return 128 + ended_by[0] if ended_by else ExitCode.OK


async def _draw(
    client: Client, request: TopRequest, screen: Screen, live: Live
) -> None:
    async with aclosing(client.samples(request)) as samples:
        async for sample in samples:
            screen.show(sample)
            live.refresh()


@contextmanager
def _keys(drawing: "asyncio.Task[None]") -> Iterator[None]:
    """Have a typed q end *drawing*; the terminal is as it was afterwards."""
    if not os.isatty(0):
        yield
        return

    loop = asyncio.get_running_loop()

    def typed() -> None:
        try:
            keys = os.read(0, 64)
        except OSError:  # the terminal has gone away
            keys = b""

        if not keys:
            loop.remove_reader(0)
        elif b"q" in keys.lower():
            drawing.cancel()

    with terminal_set(0, tty.setcbreak):
        loop.add_reader(0, typed)

        try:
            yield
        finally:
            loop.remove_reader(0)


@contextmanager
def _signals(drawing: "asyncio.Task[None]", live: Live) -> Iterator[list[int]]:
    """Draw again at a new size, and end in good order; yields what signal ended it."""
    loop, ended_by = asyncio.get_running_loop(), list[int]()

    def end(number: int) -> None:
        ended_by.append(number)
        drawing.cancel()

    loop.add_signal_handler(signal.SIGWINCH, live.refresh)

    for number in _ENDING:
        loop.add_signal_handler(number, end, number)

    try:
        yield ended_by
    finally:
        for number in (signal.SIGWINCH, *_ENDING):
            loop.remove_signal_handler(number)


def _busiest(sample: Sample, count: int) -> Sample:
    """Return *sample* with the *count* jobs that use most CPU, in the same order."""
    busiest = heapq.nlargest(count, sample.jobs, key=lambda use: use.cpu_percent or 0)
    shown = {use.status.id for use in busiest}
    return replace(
        sample, jobs=tuple(use for use in sample.jobs if use.status.id in shown)
    )


def _add(lines: dict[str, deque[float]], use: JobUse, value: float | None) -> None:
    if value is not None:
        lines.setdefault(use.status.id, deque(maxlen=_SHOWN)).append(value)


def _style(use: JobUse) -> str:
    status = use.status

    if status.state.is_final:
        return "dim"

    used, limit = status.usage.memory_bytes, status.applied.mem
    is_hot = used is not None and limit is not None and used > _HOT * limit * MIB
    return "red" if is_hot else ""
