"""Waiting for what must happen, with a deadline."""

import os
import time
from collections.abc import Callable
from typing import Final, TypeVar


T = TypeVar("T")

INTERVAL: Final = 0.02  # seconds between two looks
# How many times as long things may take here, as in a machine that is emulated.
PATIENCE: Final = float(os.environ.get("TELEWORKER_TEST_PATIENCE", "1"))


def wait_for(look: Callable[[], T | None], *, what: str, within: float = 10.0) -> T:
    """Return what *look* returns as soon as it is true.

    Fails with *what* was awaited when that takes more than *within* seconds.
    """
    deadline = time.monotonic() + within * PATIENCE

    while not (seen := look()):
        assert time.monotonic() < deadline, f"no {what} within {within:g} s"
        time.sleep(INTERVAL)

    return seen
