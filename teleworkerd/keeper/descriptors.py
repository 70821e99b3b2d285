"""How many descriptors the keeper may have, and how many are few."""

import logging
import os
import resource
from typing import Final


log = logging.getLogger(__name__)

FEW: Final = 256  # a server, and some twenty jobs that are read
TOO_FEW: Final = (
    "no more than {} files may be open, which is enough for few jobs and clients;"
    " raise LimitNOFILE= or 'ulimit -Hn'"
)
SPARE: Final = 4  # what one look at a tree, and one file, can take at once
_WANTED: Final = 1 << 20  # where there is no limit


def most_descriptors() -> int:
    """Return how many this process may have, once it has raised its limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return hard if hard != resource.RLIM_INFINITY else _WANTED


def raise_limit() -> tuple[int, int]:
    """Raise our limit of descriptors; return the old one, which jobs get."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = most_descriptors()

    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))

    if most < FEW:
        log.warning("%s", TOO_FEW.format(most))

    return soft, hard


def open_descriptors() -> int:
    """Return how many we have open; 0 when there is none left to look with."""
    try:
        return len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208  names it is
    except OSError:
        return 0
