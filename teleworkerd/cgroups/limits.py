"""Which limits of a job the host can apply, before anything is written."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from teleworkerd.cgroups.base import Limit, UnsupportedLimit
from teleworkerd.protocol.spec import (
    MAX_CPUS,
    MAX_MEMORY_MB,
    MAX_PIDS,
    MIN_CPUS,
    MIN_MEMORY_MB,
    Limits,
)


_RANGES: Final[Mapping[Limit, tuple[float, float]]] = {
    "mem": (MIN_MEMORY_MB, MAX_MEMORY_MB),
    "cpu": (1, 100),
    "io": (1, 100),
    "cpus": (MIN_CPUS, MAX_CPUS),
    "pids": (1, MAX_PIDS),
}


@dataclass(frozen=True, slots=True)
class Settled:
    """The limits that will be in force, and why others that were wanted will not."""

    applied: Limits
    not_applied: Mapping[Limit, str]


NOTHING: Final = Settled(Limits(), {})


def settle(
    limits: Limits,
    defaults: Limits,
    *,
    supports: Mapping[Limit, str | None],
    strict: bool,
) -> Settled:
    """Return what becomes of *limits* and, beside them, of *defaults*.

    Raises `UnsupportedLimit` for a limit that is not supported if *strict*, and for
    one that is out of its range: the kernel wraps some values silently, and what asks
    need not be the code that checked them first.
    """
    applied: dict[str, float] = {}
    not_applied: dict[Limit, str] = {}

    for limit in _RANGES:
        asked: float | None = getattr(limits, limit)
        value: float | None = getattr(defaults, limit) if asked is None else asked
        reason = supports[limit]

        if value is None:
            continue

        _check_range(limit, value)

        if reason is None:
            applied[limit] = value
        elif asked is not None:
            if strict:
                raise UnsupportedLimit(limit, reason)

            not_applied[limit] = reason

    return Settled(replace(Limits(), **applied), not_applied)  # type: ignore[arg-type]


def refuse_all(limits: Limits, *, reason: str) -> None:
    """Raise `UnsupportedLimit` if anything is asked for; *reason* says why not."""
    for limit in _RANGES:
        if getattr(limits, limit) is not None:
            raise UnsupportedLimit(limit, reason)


def _check_range(limit: Limit, value: float) -> None:
    least, most = _RANGES[limit]

    if not least <= value <= most:
        raise UnsupportedLimit(
            limit, f"{value:.10g} is not from {least:.10g} to {most:.10g}"
        )
