"""The start of `twctl`, as a command and as `python -m twctl`.

Little is imported before Ctrl-C is harmless.
"""

import contextlib
import gc
import os
import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run one call of `twctl`, and end the process with its exit status."""
    # Nothing that is imported is garbage, and looking for it takes a tenth of a call.
    gc.disable()
    status = call()

    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()

    # To take the interpreter down would take as long as to connect: the kernel is
    # quicker, and what must be put in order has been.
    os._exit(status)


def call() -> int:
    """Run one call of `twctl` and return its exit status."""
    # A socket that got the number of a closed stdout would be printed into, and what
    # Python has not found open is None.
    if not _is_open(0):
        os.open(os.devnull, os.O_RDONLY)
        sys.stdin = os.fdopen(0, closefd=False)

    if not _is_open(1):
        _close_reader_of_stdout()
        sys.stdout = os.fdopen(1, "w", closefd=False)

    if not _is_open(2):
        os.open(os.devnull, os.O_WRONLY)
        sys.stderr = os.fdopen(2, "w", closefd=False)

    # Until there is something to interrupt, there is nothing to tell.
    is_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN

    if not is_ignored:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    from twctl.cli import main as run  # noqa: PLC0415

    if not is_ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    return run()


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False

    return True


def _close_reader_of_stdout() -> None:
    # Then whoever prints is told so, as after `| head`.
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.close(writer)

    if reader != 1:
        os.close(reader)


if __name__ == "__main__":
    main()
