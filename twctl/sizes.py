"""Sizes and shares as people read them."""

from typing import Final


_UNITS: Final = ("KiB", "MiB", "GiB", "TiB", "PiB")
_BAR: Final = 20  # characters
_LEVELS: Final = "▁▂▃▄▅▆▇█"


def show_size(count: float) -> str:
    """Return *count* bytes in three figures or so: `512 B`, `1.5 MiB`, `20 GiB`."""
    if count < 1024:
        return f"{count:.0f} B"

    for unit in _UNITS:
        count /= 1024

        if count < 1023.95 or unit == _UNITS[-1]:
            break

    return f"{count:.0f} {unit}" if count >= 99.95 else f"{count:.1f} {unit}"


def bar(used: float, limit: float) -> str:
    """Return how much of *limit* is *used*, as a bar and in percent."""
    share = min(max(used / limit, 0.0), 1.0)
    full = round(share * _BAR)
    return f"[{'#' * full}{'-' * (_BAR - full)}] {100 * used / limit:.0f}%"


def sparkline(values: list[float], *, top: float | None = None) -> str:
    """Return *values* as small columns, of which *top* or the greatest is full."""
    most = max(top or 0.0, *values, 1e-9)
    last = len(_LEVELS) - 1
    return "".join(_LEVELS[round(min(value / most, 1.0) * last)] for value in values)
