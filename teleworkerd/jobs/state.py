"""The states of a job and what moves it between them; nothing else does."""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final

from teleworkerd.protocol.errors import TeleworkerError
from teleworkerd.protocol.types import JobState


class JobEvent(Enum):
    """What can happen to a job."""

    LAUNCHED = auto()
    LAUNCH_FAILED = auto()
    STOP_REQUESTED = auto()
    EXITED = auto()
    VANISHED = auto()


class InvalidTransition(TeleworkerError):
    """The event cannot happen in this state."""

    def __init__(self, state: JobState, event: JobEvent) -> None:
        super().__init__(f"{event.name} cannot happen to a job that is {state}")
        self.state = state
        self.event = event


TRANSITIONS: Final[Mapping[JobState, Mapping[JobEvent, JobState]]] = {
    JobState.STARTING: {
        JobEvent.LAUNCHED: JobState.RUNNING,
        JobEvent.LAUNCH_FAILED: JobState.FAILED,
        JobEvent.STOP_REQUESTED: JobState.STOPPING,
        JobEvent.VANISHED: JobState.LOST,
    },
    JobState.RUNNING: {
        JobEvent.STOP_REQUESTED: JobState.STOPPING,
        JobEvent.EXITED: JobState.FINISHED,
        JobEvent.VANISHED: JobState.LOST,
    },
    JobState.STOPPING: {
        JobEvent.LAUNCHED: JobState.STOPPING,
        JobEvent.LAUNCH_FAILED: JobState.STOPPED,
        JobEvent.STOP_REQUESTED: JobState.STOPPING,
        JobEvent.EXITED: JobState.STOPPED,
        JobEvent.VANISHED: JobState.LOST,
    },
    JobState.FINISHED: {},
    JobState.STOPPED: {},
    JobState.FAILED: {},
    JobState.LOST: {},
}


def advance(state: JobState, event: JobEvent) -> JobState:
    """Return the state that follows *event*; raises `InvalidTransition`."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise InvalidTransition(state, event) from None
