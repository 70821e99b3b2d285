"""One group of measurements: what it is, its numbers, and what was aimed at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from bench.series import Missing, Result


class By(StrEnum):
    """How two medians are compared; the value is the sign between them."""

    RATIO = "/"
    DIFFERENCE = "-"


class Verdict(StrEnum):
    """What became of an aim."""

    MET = "met"
    MISSED = "**missed**"
    UNKNOWN = "not measured"
    NONE = ""  # nothing was aimed at


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two results by name, and what their ratio or difference should be."""

    subject: str
    base: str
    by: By = By.RATIO
    at_least: float | None = None
    at_most: float | None = None

    def measure(self, results: Mapping[str, Result]) -> float | None:
        """Return the ratio or difference of the medians, if there are both."""
        subject = results.get(self.subject, Missing("not measured"))
        base = results.get(self.base, Missing("not measured"))

        if isinstance(subject, Missing) or isinstance(base, Missing):
            return None

        match self.by:
            case By.RATIO:
                return subject.median / base.median
            case By.DIFFERENCE:
                return subject.median - base.median

    def judge(self, results: Mapping[str, Result]) -> Verdict:
        """Return whether the aim was met."""
        measured = self.measure(results)

        if self.at_least is None and self.at_most is None:
            return Verdict.NONE

        if measured is None:
            return Verdict.UNKNOWN

        is_met = (self.at_least is None or measured >= self.at_least) and (
            self.at_most is None or measured <= self.at_most
        )
        return Verdict.MET if is_met else Verdict.MISSED


@dataclass(frozen=True, slots=True)
class Section:
    """A group: *notes* are paragraphs that say what was run, and how."""

    title: str
    unit: str
    results: Mapping[str, Result]
    comparisons: Sequence[Comparison] = ()
    notes: Sequence[str] = field(default=())
