"""The list of jobs on a terminal: as wide as that, and with colours."""

from collections.abc import Sequence
from typing import Final

from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import JobState
from twctl.pretty import list_rows


_STYLES: Final = {
    JobState.RUNNING: "green",
    JobState.STOPPING: "yellow",
    JobState.STOPPED: "yellow",
    JobState.FAILED: "red",
    JobState.LOST: "bold red",
}
_RIGHT: Final = frozenset({"EXIT", "AGE"})
_LEAST: Final = 16  # characters of a command, however wide the rest is


def print_list(
    jobs: Sequence[JobStatus], *, now: int, with_owners: bool = False
) -> None:
    """Print *jobs* as `list_text` has them; raises `OSError` when that fails."""
    heads, *rows = list_rows(jobs, now=now, with_owners=with_owners)
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    widths = [max(map(cell_len, column)) for column in zip(heads, *rows, strict=True)]
    room = console.width - sum(width + 2 for width in widths[:-1])

    for head, width in zip(heads[:-1], widths, strict=False):
        side: JustifyMethod = "right" if head in _RIGHT else "left"
        table.add_column(head, justify=side, min_width=width, no_wrap=True)

    table.add_column(
        heads[-1], max_width=max(room, _LEAST), no_wrap=True, overflow="ellipsis"
    )

    for job, row in zip(jobs, rows, strict=True):
        table.add_row(
            *(
                Text(cell, _style(job) if head == "STATE" else "")
                for head, cell in zip(heads, row, strict=True)
            )
        )

    console.print(table)


def _style(job: JobStatus) -> str:
    if job.state is JobState.FINISHED:
        return "red" if job.exit_code else "dim"

    return _STYLES.get(job.state, "")
