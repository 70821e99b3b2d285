"""Places at which a test lets this process die, or a call of it fail.

Nothing happens without `TELEWORKERD_FAILPOINTS`, which names a directory. A process
that comes by the point `exit-written`, and finds a file of that name in there, takes
the file away. Then it dies at once, by SIGKILL; or, if the file has the name of an
error like `ENOSPC` in it, that is what it meets.
"""

import errno
import os
import signal
from typing import Final


VARIABLE: Final = "TELEWORKERD_FAILPOINTS"


def _open(directory: str | None) -> int | None:
    # Now: the server may not go there any more once it has given up root.
    if directory is None:
        return None

    try:
        return os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


_DIRECTORY: Final = _open(os.environ.get(VARIABLE))


def failpoint(name: str) -> None:
    """Come by the point *name*; raises `OSError` if a test wants that."""
    if _DIRECTORY is not None:
        _meet(_DIRECTORY, name)


def _meet(directory: int, name: str) -> None:
    try:
        point = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return

    with os.fdopen(point, encoding="utf-8") as file:
        error = file.read().strip()

    # Once only: the next process that comes by goes on.
    os.unlink(name, dir_fd=directory)

    if error:
        number = getattr(errno, error)
        raise OSError(number, os.strerror(number))

    os.kill(os.getpid(), signal.SIGKILL)
