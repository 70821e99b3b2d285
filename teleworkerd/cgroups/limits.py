"""Whether a host can apply what a job asks for, before anything is written."""

from collections.abc import Mapping
from typing import Final

from teleworkerd.cgroups.base import Limit, UnsupportedLimit
from teleworkerd.protocol.types import MAX_MEMORY_MB, MIN_MEMORY_MB, Limits


_RANGES: Final[Mapping[Limit, range]] = {
    "mem": range(MIN_MEMORY_MB, MAX_MEMORY_MB + 1),
    "cpu": range(1, 101),
    "io": range(1, 101),
}


def check(limits: Limits, *, supports: Mapping[Limit, str | None]) -> None:
    """Raise `UnsupportedLimit` unless every limit is supported and in its range.

    The ranges are checked here once more because the kernel wraps some values
    silently, and what asks need not be the code that checked them first.
    """
    for limit, allowed in _RANGES.items():
        value: int | None = getattr(limits, limit)
        reason = supports[limit]

        if value is None:
            continue

        if reason is not None:
            raise UnsupportedLimit(limit, reason)

        if value not in allowed:
            raise UnsupportedLimit(
                limit, f"{value} is not from {allowed[0]} to {allowed[-1]}"
            )
