"""A block device with the BFQ scheduler, and writers that keep it busy."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final


SIZE: Final = 64 << 20  # bytes
HALVES: Final = (0, 1)

# With these the order is decided by weight alone: no bonus for what looks interactive,
# and no request of another group while one group's next request is awaited.
_SETTINGS: Final = {"low_latency": "0", "strict_guarantees": "1", "slice_idle": "8"}

# One small direct write at a time: with more in flight, or larger, the ratio of two
# writers swings widely. Only what is written in the window counts: both have started
# by then, or the late one fails. Prints the bytes written.
WRITER: Final = """
import mmap, os, sys, time

BLOCK = 4096
device, half, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) // 2
begin, end = float(sys.argv[4]), float(sys.argv[5])
fd = os.open(device, os.O_WRONLY | os.O_DIRECT)
data = mmap.mmap(-1, BLOCK)
offset = written = 0

if time.monotonic() > begin:
    sys.exit("started after the window had begun")

while (now := time.monotonic()) < end:
    count = os.pwrite(fd, data, half * size + offset)
    offset = (offset + count) % size
    if now >= begin:
        written += count

print(written)
"""


def writer(device: Path, *, half: int, begin: float, end: float) -> list[str]:
    """Return the command that writes one *half* of *device* and prints how much.

    *begin* and *end* of the window are times of `time.monotonic`, which is the same
    for all processes. Two writers that are compared take a half each.
    """
    return [
        sys.executable,
        "-I",
        "-S",
        "-c",
        WRITER,
        str(device),
        str(half),
        str(SIZE),
        repr(begin),
        repr(end),
    ]


@contextmanager
def bfq_device(tmp_path: Path) -> Iterator[Path]:
    """Lend a device of `SIZE` bytes that BFQ schedules and anybody may write to.

    Everything is put back as it was: the scheduler, the mode, the device itself. That
    is a loop device, if `TELEWORKER_TEST_DISK` does not name another.
    """
    named = os.environ.get("TELEWORKER_TEST_DISK")

    with ExitStack() as undo:
        device = Path(named) if named else undo.enter_context(_loop_device(tmp_path))
        mode = device.stat().st_mode & 0o7777
        undo.callback(device.chmod, mode)
        device.chmod(0o666)

        queue = Path("/sys/block", device.name, "queue")
        scheduler = queue / "scheduler"
        before = scheduler.read_text().partition("[")[2].partition("]")[0]
        undo.callback(scheduler.write_text, before or "none")
        scheduler.write_text("bfq")

        for name, value in _SETTINGS.items():
            (queue / "iosched" / name).write_text(value)

        yield device


@contextmanager
def _loop_device(tmp_path: Path) -> Iterator[Path]:
    backing = tmp_path / "backing"
    # Blocks that exist beforehand: to allocate them would be work that BFQ misses.
    backing.write_bytes(bytes(SIZE))

    try:
        device = _attach(backing)

        try:
            yield device
        finally:
            _run("losetup", "--detach", str(device))
    finally:
        backing.unlink()


def _attach(backing: Path) -> Path:
    command = ("losetup", "--find", "--show")

    # Past the page cache the device is slow enough that it, not the CPU, is what the
    # writers wait for; not every file system can do that.
    try:
        return Path(_run(*command, "--direct-io=on", str(backing)))
    except subprocess.CalledProcessError:
        return Path(_run(*command, str(backing)))


def _run(*command: str) -> str:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    done = subprocess.run(
        command,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()
