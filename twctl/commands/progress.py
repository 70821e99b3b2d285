"""Lines on stderr that are drawn again and again, and go away at the end.

What is printed on stderr meanwhile stands above them.
"""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from twctl.sizes import show_size


class _Line:
    """A line of *columns*."""

    def __init__(self, *columns: ProgressColumn) -> None:
        self._progress = Progress(
            *columns, console=Console(stderr=True), auto_refresh=False, transient=True
        )
        self._task = self._progress.add_task("", total=None, size="", rate="")

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


class Bar(_Line):
    """How much of some bytes there is, with rate and time left."""

    def __init__(self) -> None:
        super().__init__(
            TaskProgressColumn(),
            BarColumn(),
            TextColumn("{task.fields[size]}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
        )

    def show(self, done: int, *, total: int) -> None:
        """Draw it for *done* bytes of *total*."""
        speed = self._progress.tasks[0].speed
        self._progress.update(
            self._task,
            completed=done,
            total=total,
            size=f"{show_size(done)} of {show_size(total)}",
            rate="" if speed is None else f"{show_size(speed)}/s",
            refresh=True,
        )


class Spinner(_Line):
    """That something goes on, and for how long."""

    def __init__(self) -> None:
        super().__init__(
            SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        )

    def show(self, what: str) -> None:
        """Draw it with *what* goes on."""
        self._progress.update(self._task, description=what, refresh=True)
