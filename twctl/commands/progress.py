"""A bar on stderr with bytes, rate and time left."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from twctl.sizes import show_size


class Bar:
    """How much of *total* bytes there is, on a line that goes away at the end.

    What is printed on stderr meanwhile stands above it.
    """

    def __init__(self, total: int) -> None:
        self._progress = Progress(
            TaskProgressColumn(),
            BarColumn(),
            TextColumn("{task.fields[size]}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
        )
        self._total = total
        self._task = self._progress.add_task("", total=total, size="", rate="")

    def __enter__(self) -> Self:
        self._progress.start()
        # A signal may end us before we could show the cursor again.
        self._progress.console.show_cursor(True)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, done: int) -> None:
        """Draw the bar for *done* bytes."""
        speed = self._progress.tasks[0].speed
        self._progress.update(
            self._task,
            completed=done,
            size=f"{show_size(done)} of {show_size(self._total)}",
            rate="" if speed is None else f"{show_size(speed)}/s",
            refresh=True,
        )
