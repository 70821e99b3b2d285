"""The table of states, cell by cell."""

import pytest

from teleworkerd.jobs.state import TRANSITIONS, InvalidTransition, JobEvent, advance
from teleworkerd.protocol.types import JobState


# DESIGN.md, "States"; events in the order of JobEvent, - where nothing may happen.
TABLE = """
    starting  running   failed   stopping  -         lost
    running   -         -        stopping  finished  lost
    stopping  stopping  stopped  stopping  stopped   lost
    finished  -         -        -         -         -
    stopped   -         -        -         -         -
    failed    -         -        -         -         -
    lost      -         -        -         -         -
"""

ROWS = [line.split() for line in TABLE.strip().splitlines()]
CELLS = [
    (JobState(row[0]), event, None if cell == "-" else JobState(cell))
    for row in ROWS
    for event, cell in zip(JobEvent, row[1:], strict=True)
]


@pytest.mark.parametrize(("state", "event", "then"), CELLS)
def test_cell(state: JobState, event: JobEvent, then: JobState | None) -> None:
    """Each event in each state leads where the design says, or nowhere."""
    if then is None:
        with pytest.raises(InvalidTransition, match=f"{event.name} .* {state}"):
            advance(state, event)
    else:
        assert advance(state, event) is then


def test_table_is_whole() -> None:
    """Every state has a row, and no event leaves a final one."""
    assert set(TRANSITIONS) == set(JobState)
    assert {state for state in JobState if state.is_final} == {
        state for state, row in TRANSITIONS.items() if not row
    }


def test_refusal_carries_the_facts() -> None:
    """Who catches a refused event finds state and event in it."""
    with pytest.raises(InvalidTransition) as caught:
        advance(JobState.LOST, JobEvent.EXITED)

    assert caught.value.state is JobState.LOST
    assert caught.value.event is JobEvent.EXITED
