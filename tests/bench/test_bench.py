"""The benchmark: that it runs through, and that it judges rightly."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from bench.machine import Load
from bench.measures.stream import sequence_size
from bench.report import Measured, render
from bench.section import By, Comparison, Section, Verdict
from bench.series import (
    MeasurementError,
    Missing,
    Result,
    Series,
    Values,
    contest,
    percentile,
)


ROOT: Final = Path(__file__).resolve().parents[2]

SECTIONS: Final = (
    "Line latency",
    "A detached start",
    "Launches",
    "One stream: 32 MiB of zeros",
    "One stream: `seq 1 1000000`, 6 MiB",
    "Fan-out: 4 MiB to each reader",
    "A slow reader",
    "Memory around 64 MiB to one reader",
)

RESULTS: Final[Mapping[str, Result]] = {
    "ours": Series((1.0, 3.0, 2.0)),
    "theirs": Series((1.0,)),
    "nobody's": Missing("missing: not installed"),
}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_quick_run_reports_every_section(tmp_path: Path) -> None:
    """A quick run ends well and writes a page with all groups, none of ours failed."""
    page = tmp_path / "results.md"

    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--output", str(page)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=280,
    )

    assert done.returncode == 0, done.stderr
    text = page.read_text()
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles == ["## The aims", *(f"## {title}" for title in SECTIONS)]
    assert "failed:" not in text


def test_contest_interleaves_its_rounds() -> None:
    """Every contestant measures once in a round, and another one begins each."""
    order: list[str] = []

    def measure(name: str) -> Values:
        order.append(name)
        return {"": float(len(order))}

    contest(2, {"a": lambda: measure("a"), "b": lambda: measure("b")})

    assert order == ["b", "a", "a", "b"]


def test_contest_keeps_what_failed_apart() -> None:
    """A round that failed has a row of its own, and the other rounds count."""
    rounds = iter([False, True])

    def measure() -> Values:
        if next(rounds):
            raise MeasurementError("it hung")

        return {"median": 1.0}

    results = contest(2, {"ours": measure})

    assert results == {
        "ours, median": Series((1.0,)),
        "ours, round 2": Missing("failed: it hung"),
    }


def test_contest_names_who_is_missing() -> None:
    """A peer that is not there has a row that says why."""
    gone = Missing("missing: not installed")

    assert contest(2, {"theirs": gone}) == {"theirs": gone}


@pytest.mark.parametrize(
    ("comparison", "verdict"),
    [
        (Comparison("ours", "theirs", at_least=2), Verdict.MET),
        (Comparison("ours", "theirs", at_least=2.5), Verdict.MISSED),
        (Comparison("ours", "theirs", at_most=1.5), Verdict.MISSED),
        (Comparison("ours", "theirs", by=By.DIFFERENCE, at_most=1), Verdict.MET),
        (Comparison("ours", "nobody's", at_least=2), Verdict.UNKNOWN),
        (Comparison("ours", "theirs"), Verdict.NONE),
    ],
)
def test_aims_are_judged_by_the_medians(
    comparison: Comparison, verdict: Verdict
) -> None:
    """An aim is met or missed by the ratio or the difference of the medians."""
    assert comparison.judge(RESULTS) == verdict


def test_page_shows_numbers_and_what_is_missing() -> None:
    """A row has median, minimum and maximum, or says why there are none."""
    aim = Comparison("ours", "theirs", at_least=3)
    section = Section("A group", "MiB/s", RESULTS, [aim])

    page = render([Measured(section, Load(0.5, 1.0, 0.0))], facts={}, remarks=[])

    assert "0 of 1 aims are met." in page
    assert "| ours | 2.00 | 1.00 | 3.00 | 3 |" in page
    assert "| nobody's | missing: not installed |  |  |  |" in page
    assert "| ours / theirs | 2.00 | ≥ 3.00 | **missed** |" in page


def test_percentile_is_one_of_the_values() -> None:
    """The 99th percentile of 200 values is the third largest of them."""
    assert percentile(range(200), 99) == 197


def test_sequence_size_counts_digits_and_newlines() -> None:
    """The size is that of what `seq` prints."""
    printed = "".join(f"{number}\n" for number in range(1, 1235))

    assert sequence_size(1234) == len(printed)
