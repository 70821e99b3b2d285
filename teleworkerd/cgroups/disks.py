"""Whether weights of I/O have any effect: that is for the schedulers of the disks."""

from contextlib import suppress
from pathlib import Path
from typing import Final


NO_WEIGHTS: Final = "no disk has a scheduler that knows weights (BFQ)"

_BLOCK: Final = Path("/sys/block")
_WEIGHING: Final = ("[bfq]", "[cfq]")


def why_no_weights(io_cost: Path | None = None, *, block: Path = _BLOCK) -> str | None:
    """Return why a weight has no effect on any disk; None if it has on one.

    *io_cost* is the file `io.cost.qos` of version 2, whose model weighs too, where it
    is enabled. Disks may change at any time, and so may their schedulers.
    """
    files = [*block.glob("*/queue/scheduler")]

    if any(mark in _text(file) for file in files for mark in _WEIGHING):
        return None

    if io_cost is not None and "enable=1" in _text(io_cost):
        return None

    return NO_WEIGHTS


def _text(file: Path) -> str:
    with suppress(OSError):
        return file.read_text()

    return ""
