"""What `twctl top` shows, on terminals of all widths."""

import io
import re

import pytest
from rich.console import Console

from tests.twctl.fake_output import make_status
from tests.twctl.picture import FILE, draw, example
from twctl.commands.screen import Screen
from twctl.sampling import JobUse, Sample


def lines(width: int) -> list[str]:
    """Return what is shown on a terminal that wide."""
    return shown(example(), width=width, height=25)


def shown(screen: Screen, *, width: int, height: int) -> list[str]:
    """Return the lines of *screen* on a terminal of that size."""
    console = Console(width=width, height=height, file=io.StringIO())

    with console.capture() as capture:
        console.print(screen)

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


def crowd(count: int) -> Screen:
    """Return a screen with so many jobs, each of which uses more CPU than the last."""
    uses = [
        JobUse(make_status(id=f"{number:08}-", exit_code=None), float(number))
        for number in range(count)
    ]
    screen = Screen("worker:7443", with_owners=False)
    screen.show(Sample(0, tuple(uses)))
    return screen


def test_more_jobs_than_lines() -> None:
    """Those that use most CPU are shown, and how many more there are."""
    _, _, *rows, last = shown(crowd(20), width=100, height=10)

    assert [row[:8] for row in rows] == [f"{number:08}" for number in range(13, 20)]
    assert last == "… and 13 more"


def test_as_many_jobs_as_lines() -> None:
    """Where there is room for all, nothing is left out."""
    _, _, *rows = shown(crowd(8), width=100, height=10)

    assert [row[:8] for row in rows] == [f"{number:08}" for number in range(8)]


def test_long_note() -> None:
    """However long the head is, it has one line."""
    screen = crowd(1)
    screen.note("the connection was lost; " * 9)

    assert len(shown(screen, width=60, height=10)) == 3
