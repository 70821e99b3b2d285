"""What `list --filter` understands."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from teleworkerd.protocol.types import JobState
from twctl.parsing import parse_label, parse_text


@dataclass(frozen=True, slots=True)
class Filters:
    """Which jobs `list` shows; empty means all."""

    states: tuple[JobState, ...] = ()
    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


def parse_filters(texts: Iterable[str]) -> Filters:
    """Return what `state=…`, `label=K=V` and `name=…` ask for together."""
    filters = Filters()

    for text in texts:
        key, _, value = text.partition("=")

        match key:
            case "state":
                states = (*filters.states, _state(value))
                filters = replace(filters, states=states)
            case "label":
                label, wanted = parse_label(value)
                filters = replace(filters, labels={**filters.labels, label: wanted})
            case "name":
                filters = replace(filters, name=parse_text(value))
            case _:
                raise ValueError(
                    f"{text!r} is not a filter; write state=S, label=K=V or name=N"
                )

    return filters


def _state(text: str) -> JobState:
    try:
        return JobState(text)
    except ValueError:
        known = ", ".join(JobState)
        raise ValueError(f"{text!r} is not a state; there are {known}") from None
