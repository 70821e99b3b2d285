"""Places at which a test lets this process die, or a call of it fail.

Nothing happens without `TELEWORKERD_FAILPOINTS`, which names a directory. A process
that comes by the point `exit-written`, and finds a file of that name in there, takes
the file away. Then it dies at once, by SIGKILL; or, if the file has the name of an
error like `ENOSPC` in it, that is what it meets.
"""

import errno
import os
import signal
from pathlib import Path
from typing import Final


VARIABLE: Final = "TELEWORKERD_FAILPOINTS"

_DIRECTORY: Final = os.environ.get(VARIABLE)


def failpoint(name: str) -> None:
    """Come by the point *name*; raises `OSError` if a test wants that."""
    if _DIRECTORY is not None:
        _meet(Path(_DIRECTORY) / name)


def _meet(point: Path) -> None:
    try:
        error = point.read_text().strip()
        # Once only: the next process that comes by goes on.
        point.unlink()
    except FileNotFoundError:
        return

    if error:
        number = getattr(errno, error)
        raise OSError(number, os.strerror(number))

    os.kill(os.getpid(), signal.SIGKILL)
