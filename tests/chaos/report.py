"""What a run did and found, for people."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tests.chaos.history import NEMESIS, Done, Entry, Output, Result, Seen, Strike


LOG_LINES: Final = 60
JOB: Final = re.compile(r"^job (\d+) ")


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did and found."""

    seed: int
    seconds: float
    history: Sequence[Entry]
    jobs: int
    restarts: int
    violations: Sequence[str]
    log: str

    @property
    def faults(self) -> Counter[str]:
        """How often each kind of fault was done."""
        return Counter(
            str(entry.action.fault.kind)
            for entry in self.history
            if isinstance(entry.action, Strike) and isinstance(entry.result, Done)
        )

    @property
    def left_out(self) -> set[str]:
        """Which faults this machine does not allow, and why."""
        return {
            f"{entry.action.fault.kind}: {entry.result}"
            for entry in self.history
            if isinstance(entry.action, Strike) and not isinstance(entry.result, Done)
        }

    @property
    def actions(self) -> Counter[str]:
        """How often each action was done, with what kind of result."""
        return Counter(
            f"{type(entry.action).__name__} {type(entry.result).__name__}"
            for entry in self.history
            if entry.client != NEMESIS
        )

    @property
    def compared(self) -> int:
        """How many bytes were read and compared."""
        return sum(
            len(entry.result.stdout) + len(entry.result.stderr)
            for entry in self.history
            if isinstance(entry.result, Output)
        )

    @property
    def end_of_log(self) -> str:
        """The last lines of the daemon's log."""
        return "\n".join(self.log.splitlines()[-LOG_LINES:])

    def concerned(self) -> Iterator[str]:
        """Yield what happened to the jobs that the violations speak of."""
        found = (JOB.search(violation) for violation in self.violations)
        numbers = {int(match[1]) for match in found if match}

        for entry in self.history:
            if getattr(entry.action, "number", None) in numbers:
                yield (
                    f"{entry.began:7.2f} {entry.ended:7.2f} {entry.client:14}"
                    f" {entry.action} {_short(entry.result)}"
                )

    def __str__(self) -> str:
        lines = [
            f"seed {self.seed}, {self.seconds:.0f} s",
            f"{sum(self.actions.values())} actions: {_counts(self.actions)}",
            f"{self.jobs} jobs, {self.compared} bytes compared",
            f"{sum(self.faults.values())} faults: {_counts(self.faults)}",
            *(f"left out: {each}" for each in sorted(self.left_out)),
            f"{self.restarts} restarts of the server",
            f"{len(self.violations)} violations",
            *self.violations,
            *self.concerned(),
        ]
        return "\n".join(lines)


def _short(result: Result) -> str:
    if isinstance(result, Output):
        size = f"{len(result.stdout)} and {len(result.stderr)} bytes"
        return f"{size}, complete: {result.is_complete}, {result.error or 'no error'}"

    if isinstance(result, Seen):
        status = result.status
        ends = f"{status.stdout.end} and {status.stderr.end} bytes"
        return f"{status.id}: {status.state}, {status.reason}, {ends}"

    return str(result)


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counter.items()))
