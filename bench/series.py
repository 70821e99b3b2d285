"""What was measured: a series of numbers, or why there is none."""

import logging
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


log = logging.getLogger(__name__)


class MeasurementError(Exception):
    """One measurement did not come to its end; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Stands where a number should, and says why there is none."""

    why: str


@dataclass(frozen=True, slots=True)
class Series:
    """The same thing, measured in each round; the unit is its table's."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def minimum(self) -> float:
        return min(self.values)

    @property
    def maximum(self) -> float:
        return max(self.values)


Result = Series | Missing
Values = Mapping[str, float | Missing]
Contestant = Callable[[], Values]


def contest(
    rounds: int, contestants: Mapping[str, Contestant | Missing]
) -> dict[str, Result]:
    """Let everybody measure once in each round, and return the series by name.

    The rounds are interleaved, and each begins with another one, so that the
    noise of the machine hits all alike. A contestant may return several values
    by name; an empty name is its own. What fails gets a line of its own.
    """
    names = list(contestants)
    values: dict[str, dict[str, list[float | Missing]]] = {name: {} for name in names}
    failures: dict[str, Result] = {}

    for number in range(1, rounds + 1):
        for name in (*names[number % len(names) :], *names[: number % len(names)]):
            contestant = contestants[name]

            if isinstance(contestant, Missing):
                continue

            log.info("  round %s of %s: %s", number, rounds, name)

            try:
                measured = contestant()
            except MeasurementError as error:
                log.warning("  failed: %s", error)
                failures[f"{name}, round {number}"] = Missing(f"failed: {error}")
                continue

            for part, value in measured.items():
                values[name].setdefault(part, []).append(value)

    return {
        **{
            _label(name, part): result
            for name in names
            for part, result in _results(contestants[name], values[name])
        },
        **failures,
    }


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest of *values* that *percent* of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def _label(name: str, part: str) -> str:
    return f"{name}, {part}" if part else name


def _results(
    contestant: Contestant | Missing, parts: Mapping[str, Sequence[float | Missing]]
) -> list[tuple[str, Result]]:
    if isinstance(contestant, Missing):
        return [("", contestant)]

    return [(part, _series(values)) for part, values in parts.items()]


def _series(values: Sequence[float | Missing]) -> Result:
    for value in values:
        if isinstance(value, Missing):
            return value

    return Series(tuple(value for value in values if not isinstance(value, Missing)))
