"""What came of the tests in the virtual machine, and whether that will do."""

import json
from dataclasses import dataclass
from typing import Any

from tests.vm.error import VmError


@dataclass(frozen=True, slots=True)
class Outcome:
    """How pytest ended there, how many tests it ran, and which it skipped."""

    status: int
    ran: int
    skipped: tuple[str, ...]


def read_outcome(text: str) -> Outcome:
    """Return what the machine said with *text*; raises `VmError`."""
    try:
        facts: dict[str, Any] = json.loads(text)
    except ValueError:
        raise VmError("the virtual machine ended before the tests did") from None

    if "error" in facts:
        raise VmError(f"the tests could not be run: {facts['error']}")

    return Outcome(facts["status"], facts["ran"], tuple(facts["skipped"]))


def check(outcome: Outcome, *, least: int) -> None:
    """Raise `VmError` if less than all was shown, though nothing failed."""
    if outcome.skipped:
        found = "; ".join(outcome.skipped)
        raise VmError(f"{len(outcome.skipped)} tests were skipped: {found}")

    if outcome.ran < least:
        raise VmError(f"{outcome.ran} tests ran, of at least {least}")
