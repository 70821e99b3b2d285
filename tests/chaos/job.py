"""What the jobs of the chaos test do: output and end are functions of a number.

This file is a program too, which any account runs with any Python: it reads
nothing else of ours, and notes beside itself that it has begun, what it left
behind, and that it has come to its end.
"""

import hashlib
import os
import signal
import sys
import time
from dataclasses import dataclass


STREAMS = ("stdout", "stderr")
LEDGER = "ledger"  # the file beside this one with one line for each thing noted
LEFT_BEHIND = ("sleep", "86399")  # what some jobs leave running

KIB = 1 << 10
MIB = 1 << 20


@dataclass(frozen=True)
class Script:
    """What the job with a number does: sizes in bytes, the pause in seconds.

    It writes both streams in so many *pieces*, with a pause after each.
    """

    stdout: int
    stderr: int
    pieces: int
    pause: float
    exit_code: int
    ignores_sigterm: bool
    leaves_child: bool

    def size(self, stream: str) -> int:
        """Return how much it writes to *stream*, if nobody ends it."""
        return self.stdout if stream == "stdout" else self.stderr


def script(number: int) -> Script:
    """Return what job *number* does."""
    dice = hashlib.sha256(b"%d" % number).digest()
    big = int.from_bytes(dice[:4], "big")
    small = int.from_bytes(dice[4:8], "big")

    match dice[8] % 20:
        case 0:
            sizes, pieces, pause = (big % (2 * MIB), small % MIB), 8, 0.0
        case 1 | 2 | 3:
            sizes, pieces, pause = (big % (256 * KIB), small % (64 * KIB)), 600, 0.1
        case 4 | 5 | 6 | 7 | 8 | 9:
            sizes, pieces, pause = (big % (96 * KIB), small % (48 * KIB)), 50, 0.08
        case 10:
            sizes, pieces, pause = (0, 0), 1, 0.0
        case _:
            sizes, pieces, pause = (big % (32 * KIB), small % (8 * KIB)), 3, 0.0

    return Script(
        *sizes,
        pieces=pieces,
        pause=pause,
        exit_code=dice[9] % 100,
        ignores_sigterm=dice[10] % 5 == 0,
        leaves_child=dice[11] % 8 == 0,
    )


def output(number: int, stream: str, size: int) -> bytes:
    """Return the first *size* bytes that job *number* writes to *stream*."""
    return hashlib.shake_256(f"{number} {stream}".encode()).digest(size)


def main(number: int, request_id: str) -> int:
    """Be job *number*, which *request_id* asked for; return its exit code."""
    todo = script(number)
    note("start", request_id, "preload" if "LD_PRELOAD" in os.environ else "clean")

    if todo.ignores_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    if todo.leaves_child:
        leave_child(request_id)

    data = {name: output(number, name, todo.size(name)) for name in STREAMS}

    for piece in range(todo.pieces):
        for fd, name in enumerate(STREAMS, 1):
            size = todo.size(name)
            part = slice(size * piece // todo.pieces, size * (piece + 1) // todo.pieces)
            write(fd, data[name][part])

        time.sleep(todo.pause)

    note("end", request_id)
    return todo.exit_code


def note(*words: object) -> None:
    """Append a line to the ledger, at once and as a whole."""
    path = f"{__file__.rpartition('/')[0]}/{LEDGER}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    fd = os.open(path, flags, 0o666)
    os.write(fd, " ".join(map(str, words)).encode() + b"\n")
    os.close(fd)


def leave_child(request_id: str) -> None:
    """Leave a process behind that holds both pipes, out of our session."""
    pid = os.fork()

    if pid == 0:
        os.setsid()
        os.execvp(LEFT_BEHIND[0], LEFT_BEHIND)

    note("child", request_id, pid)


def write(fd: int, data: bytes) -> None:
    """Write all of *data*."""
    view = memoryview(data)

    while view:
        view = view[os.write(fd, view) :]


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
