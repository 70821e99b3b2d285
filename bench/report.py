"""The results as a page: what was measured, and what became of the aims."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from bench.machine import Load
from bench.section import By, Comparison, Section, Verdict
from bench.series import Result, Series


@dataclass(frozen=True, slots=True)
class Measured:
    """A section, and how busy the machine was meanwhile."""

    section: Section
    load: Load


def render(
    measured: Sequence[Measured], *, facts: Mapping[str, str], remarks: Sequence[str]
) -> str:
    """Return the page in Markdown."""
    sections = [item.section for item in measured]
    blocks = [
        "# Results of the benchmark",
        "Written by `make bench`; [README.md](README.md) says how to read it.",
        *remarks,
        _table(("machine", ""), facts.items()),
        "## The aims",
        _aims(sections),
        *chain.from_iterable(map(_section, measured)),
    ]
    return "\n\n".join(blocks) + "\n"


def _aims(sections: Sequence[Section]) -> str:
    rows = [
        (section.title, *_comparison(comparison, section))
        for section in sections
        for comparison in section.comparisons
        if comparison.judge(section.results) is not Verdict.NONE
    ]
    verdicts = [row[-1] for row in rows]
    summary = f"{verdicts.count(Verdict.MET)} of {len(rows)} aims are met."
    head = ("group", "what against what", "measured", "aim", "verdict")
    return f"{summary}\n\n{_table(head, rows)}"


def _section(measured: Measured) -> list[str]:
    section = measured.section
    results = section.results
    head = (section.unit, "median", "min", "max", "rounds")
    rows = [(name, *_numbers(result)) for name, result in results.items()]
    comparisons = [_comparison(item, section) for item in section.comparisons]
    return [
        f"## {section.title}",
        *section.notes,
        f"Load: {measured.load}.",
        _table(head, rows, numbers=4),
        _table(("what against what", "measured", "aim", "verdict"), comparisons),
    ]


def _numbers(result: Result) -> tuple[str, ...]:
    if not isinstance(result, Series):
        return (result.why, "", "", "")

    values = (result.median, result.minimum, result.maximum)
    return (*map(_number, values), str(len(result.values)))


def _comparison(comparison: Comparison, section: Section) -> tuple[str, ...]:
    measured = comparison.measure(section.results)

    def show(value: float) -> str:
        match comparison.by:
            case By.RATIO:
                return f"{value:.2f}"
            case By.DIFFERENCE:
                return f"{_number(value)} {section.unit}"

    aims = [
        f"{sign} {show(bound)}"
        for sign, bound in (("≥", comparison.at_least), ("≤", comparison.at_most))
        if bound is not None
    ]
    return (
        f"{comparison.subject} {comparison.by} {comparison.base}",
        "not measured" if measured is None else show(measured),
        " and ".join(aims),
        comparison.judge(section.results),
    )


def _number(value: float) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def _table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int = 0
) -> str:
    """Return a table whose last but *numbers* columns are text."""
    rule = ["---"] * (len(head) - numbers) + ["---:"] * numbers
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))
