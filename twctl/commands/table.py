"""The list of jobs on a terminal: as wide as that, and with colours."""

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.text import Text

from teleworkerd.protocol.status import JobStatus
from teleworkerd.protocol.types import JobState
from twctl.commands.columns import fitting_table, left_out, rows_shown
from twctl.pretty import list_rows


_STYLES: Final = {
    JobState.RUNNING: "green",
    JobState.STOPPING: "yellow",
    JobState.STOPPED: "yellow",
    JobState.FAILED: "red",
    JobState.LOST: "bold red",
}
_RIGHT: Final = frozenset({"EXIT", "AGE"})
_BESIDE: Final = 2  # lines of a screen that are no rows: the heads, and the cursor's


def print_list(
    jobs: Sequence[JobStatus],
    *,
    now: int,
    with_owners: bool = False,
    on_one_screen: bool = False,
) -> None:
    """Print *jobs* as `list_text` has them; raises `OSError` when that fails.

    Of more than there is room for *on_one_screen* the first are shown.
    """
    console = Console(highlight=False)
    lines = console.height - _BESIDE if on_one_screen else len(jobs)
    shown = rows_shown(len(jobs), lines=lines)
    missing, jobs = len(jobs) - shown, jobs[:shown]
    heads, *rows = list_rows(jobs, now=now, with_owners=with_owners)
    cells = [
        [
            Text(cell, _style(job) if head == "STATE" else "")
            for head, cell in zip(heads, row, strict=True)
        ]
        for job, row in zip(jobs, rows, strict=True)
    ]
    console.print(fitting_table(heads, cells, width=console.width, right=_RIGHT))

    if missing:
        console.print(left_out(missing))


def _style(job: JobStatus) -> str:
    if job.state is JobState.FINISHED:
        return "red" if job.exit_code else "dim"

    return _STYLES.get(job.state, "")
