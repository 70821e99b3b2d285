"""Tables of which the last column has what room the others leave."""

from collections.abc import Collection, Sequence
from typing import Final

from rich.cells import cell_len
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text


_GAP: Final = 2  # spaces between columns
_LEAST: Final = 16  # characters to which the last column is cut at most


def least_width(heads: Sequence[str], rows: Sequence[Sequence[Text]]) -> int:
    """Return how wide a table must be at least to have all of its columns."""
    *others, last = _widths(heads, rows)
    return sum(width + _GAP for width in others) + min(last, _LEAST)


def fitting_table(
    heads: Sequence[str],
    rows: Sequence[Sequence[Text]],
    *,
    width: int,
    right: Collection[str],
) -> Table:
    """Return a table in which only the last column is cut to *width*.

    The columns of the heads in *right* are justified there. Where the others alone are
    too wide, what is too much of a line is not shown.
    """
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    widths = _widths(heads, rows)
    room = max(width - sum(other + _GAP for other in widths[:-1]), _LEAST)

    for number, head in enumerate(heads):
        is_last = number == len(heads) - 1
        side: JustifyMethod = "right" if head in right else "left"
        table.add_column(
            head,
            justify=side,
            no_wrap=True,
            overflow="ellipsis",
            min_width=None if is_last else widths[number],
            max_width=room if is_last else None,
        )

    for row in rows:
        table.add_row(*row)

    return table


def rows_shown(count: int, *, lines: int) -> int:
    """Return how many of *count* rows to show in so many *lines*.

    If that is not all, a line is left for `left_out`.
    """
    return count if count <= lines else max(0, lines - 1)


def left_out(count: int) -> Text:
    """Return the line that says that *count* rows are not shown."""
    return Text(f"… and {count} more", "dim")


def _widths(heads: Sequence[str], rows: Sequence[Sequence[Text]]) -> list[int]:
    return [
        max(cell_len(head), *(row[number].cell_len for row in rows), 0)
        for number, head in enumerate(heads)
    ]
