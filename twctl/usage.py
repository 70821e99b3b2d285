"""Tables of what jobs use."""

from typing import Final

from teleworkerd.protocol.types import MIB
from twctl.pretty import SHORT_ID, age, command_line, shorten, table
from twctl.render import SECOND, escape
from twctl.sampling import JobUse, Sample
from twctl.sizes import show_size


HEADS: Final = (
    *("ID", "OWNER", "NAME", "CPU", "MEM", "PIDS"),
    *("READ/s", "WRITE/s", "OUT/s", "TIME", "COMMAND"),
)
OWNER: Final = HEADS.index("OWNER")


def sample_text(sample: Sample, *, with_owners: bool = False) -> str:
    """Return a table of *sample*, or a line that says that there is nothing in it."""
    if not sample.jobs:
        return "no job runs"

    rows = [HEADS, *(cells(use, sample.at) for use in sample.jobs)]

    if not with_owners:
        rows = [(*row[:OWNER], *row[OWNER + 1 :]) for row in rows]

    return table(rows)


def cells(use: JobUse, at: int) -> tuple[str, ...]:
    """Return what the table has of one job, at the time *at*; safe to print."""
    status, usage = use.status, use.status.usage
    since = status.started_at or status.created_at
    end = status.ended_at or at
    return (
        escape(status.id[:SHORT_ID]),
        escape(status.owner),
        escape(status.name or "-"),
        str(status.state) if status.state.is_final else _percent(use.cpu_percent),
        _of(usage.memory_bytes, status.applied.mem and status.applied.mem * MIB),
        _count(usage.processes, status.applied.pids),
        _rate(use.read_rate),
        _rate(use.write_rate),
        _rate(use.output_rate),
        age(max(0, end - since) // SECOND),
        shorten(command_line(status)),
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}%"


def _of(used: int | None, limit: int | None) -> str:
    if used is None:
        return "-"

    return show_size(used) if not limit else f"{show_size(used)}/{show_size(limit)}"


def _count(used: int | None, limit: int | None) -> str:
    if used is None:
        return "-"

    return str(used) if limit is None else f"{used}/{limit}"


def _rate(value: float | None) -> str:
    return "-" if value is None else show_size(value)
