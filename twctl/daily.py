"""Warnings that need not be heard at each call."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from twctl.render import print_warning


_DAY: Final = 86_400.0  # seconds


def warn_daily(text: str) -> None:
    """Print a warning, unless the same was printed within a day.

    Where nobody can note that, it is printed each time.
    """
    if is_due(text, now=time.time()):
        print_warning(text)


def is_due(text: str, *, now: float, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether *text* was not due within the day before *now*; note that it is now."""
    import hashlib  # noqa: PLC0415 - few calls warn

    home = environ.get("XDG_STATE_HOME") or "~/.local/state"
    # Which one of a day it is may stand in it: digits do not tell warnings apart.
    kind = "".join(char for char in text if not char.isdigit())
    name = hashlib.sha256(kind.encode(errors="surrogateescape")).hexdigest()[:32]

    try:
        stamp = Path(home).expanduser() / "twctl" / f"warned-{name}"
        stamp.parent.mkdir(mode=0o700, parents=True, exist_ok=True)

        if stamp.exists() and abs(now - stamp.stat().st_mtime) < _DAY:
            return False

        stamp.touch(mode=0o600)
        os.utime(stamp, (now, now))
    except (OSError, RuntimeError):  # the latter: nobody has a home
        return True

    return True
