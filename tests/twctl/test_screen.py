"""What `twctl top` shows, on terminals of all widths."""

import io
import re

import pytest
from rich.console import Console

from tests.twctl.picture import FILE, draw, example


def lines(width: int) -> list[str]:
    """Return what is shown on a terminal that wide."""
    console = Console(width=width, file=io.StringIO())

    with console.capture() as capture:
        console.print(example())

    return [line.rstrip() for line in capture.get().splitlines()]


def test_picture() -> None:
    """The picture in the README is drawn by the code that there is.

    `python -m tests.twctl.picture` draws it again.
    """
    drawn, drawn_again = (
        re.findall(r">([^<]*)</text>", svg) for svg in (FILE.read_text("utf-8"), draw())
    )
    assert drawn == drawn_again
    assert "build" in "".join(drawn)


@pytest.mark.parametrize("width", [60, 70, 80, 90, 100, 110, 120, 140, 200])
def test_what_counts_is_whole(width: int) -> None:
    """However narrow, what each job uses is shown, each on one line."""
    head, names, *rows = lines(width)

    assert head == "worker.example.org:7443  3 running  (q ends)"
    assert names.split()[:4] == ["ID", "NAME", "CPU", "MEM"]
    assert len(rows) == 3
    assert all(len(row) <= width for row in rows)
    assert "build" in rows[0]
    assert "1.8 GiB/2.0 GiB" in rows[0]
    assert "397%" in rows[1]


def test_wide() -> None:
    """With room enough there is all, and lines of the last samples."""
    _, names, first, *_ = lines(200)

    assert names.split()[-2:] == ["TIME", "COMMAND"]
    assert "\u2587\u2588" in first
    assert first.endswith("make -j8 all")


def test_standard_terminal() -> None:
    """What 80 columns have no room for is left out as a whole."""
    assert lines(80)[1].split() == [
        "ID",
        "NAME",
        "CPU",
        "MEM",
        "PIDS",
        "READ/s",
        "TIME",
    ]
