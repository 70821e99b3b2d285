"""`twctl top` on a terminal: a table that is drawn anew with each sample."""

import asyncio
import os
import signal
import sys
import termios
import tty
from collections import deque
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import Final, TypeVar

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from teleworkerd.protocol.messages import TopRequest
from teleworkerd.protocol.types import MIB
from twctl.client import Client
from twctl.exit_codes import ExitCode
from twctl.profile import Profile
from twctl.render import escape, print_warning
from twctl.sampling import JobUse, Sample
from twctl.sizes import sparkline
from twctl.usage import HEADS, OWNER, cells


T = TypeVar("T")

_SHOWN: Final = 12  # samples in a sparkline
_RIGHT: Final = frozenset({"CPU", "MEM", "PIDS", "READ/s", "WRITE/s", "OUT/s", "TIME"})
_HOT: Final = 0.9  # of a limit


class Screen:
    """What is on the terminal: the newest sample, and lines of those before."""

    def __init__(self, address: str, *, with_owners: bool) -> None:
        self._address = address
        self._with_owners = with_owners
        self._cpu: dict[str, deque[float]] = {}
        self._memory: dict[str, deque[float]] = {}
        self._sample: Sample | None = None
        self._note: str | None = None

    def show(self, sample: Sample) -> None:
        """Have *sample* on it."""
        self._sample, self._note = sample, None
        running = {use.status.id for use in sample.jobs}

        for lines in (self._cpu, self._memory):
            for job_id in lines.keys() - running:
                del lines[job_id]

        for use in sample.jobs:
            _add(self._cpu, use, use.cpu_percent)
            _add(self._memory, use, use.status.usage.memory_bytes)

    def note(self, text: str) -> None:
        """Have *text* in the head of it, until the next sample."""
        self._note = text

    def __rich__(self) -> Table:
        """Return what rich draws."""
        table = Table(box=None, title=self._head(), title_justify="left", expand=True)
        table.title_style = "bold"

        for head in self._without_owner(HEADS):
            table.add_column(
                head,
                justify="right" if head in _RIGHT else "left",
                no_wrap=True,
                overflow="ellipsis",
            )

        for use in () if self._sample is None else self._sample.jobs:
            at = 0 if self._sample is None else self._sample.at
            row = [Text(cell) for cell in cells(use, at)]
            row[HEADS.index("CPU")] = self._with_line(row, "CPU", use, self._cpu)
            row[HEADS.index("MEM")] = self._with_line(row, "MEM", use, self._memory)
            table.add_row(*self._without_owner(tuple(row)), style=_style(use))

        return table

    def _head(self) -> Text:
        if self._sample is None:
            state = "no sample yet"
        else:
            running = sum(not use.status.state.is_final for use in self._sample.jobs)
            state = "no job runs" if running == 0 else f"{running} running"

        note = "" if self._note is None else f"  {self._note}"
        return Text(escape(f"{self._address}  {state}  (q ends){note}"))

    def _with_line(
        self, row: list[Text], head: str, use: JobUse, lines: dict[str, deque[float]]
    ) -> Text:
        values = list(lines.get(use.status.id, ()))
        limit = use.status.applied.mem if head == "MEM" else None
        line = sparkline(values, top=limit and limit * MIB) if values else ""
        return Text.assemble((line, "cyan"), " ", row[HEADS.index(head)])

    def _without_owner(self, row: tuple[T, ...]) -> tuple[T, ...]:
        return row if self._with_owners else (*row[:OWNER], *row[OWNER + 1 :])


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

        with _keys(drawing), _signals(drawing, live) as ended_by, live:
            try:
                await drawing
            except asyncio.CancelledError:
                if not drawing.cancelled():
                    drawing.cancel()
                    raise

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
    if not sys.stdin.isatty():
        yield
        return

    fd, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)

    def typed() -> None:
        if b"q" in os.read(fd, 64).lower():
            drawing.cancel()

    loop.add_reader(fd, typed)

    try:
        yield
    finally:
        loop.remove_reader(fd)
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextmanager
def _signals(drawing: "asyncio.Task[None]", live: Live) -> Iterator[list[int]]:
    """Draw again at a new size, and end in good order; yields what signal ended it."""
    loop, ended_by = asyncio.get_running_loop(), list[int]()

    def end(number: int) -> None:
        ended_by.append(number)
        drawing.cancel()

    loop.add_signal_handler(signal.SIGWINCH, live.refresh)

    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end, number)

    try:
        yield ended_by
    finally:
        for number in (signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)


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
