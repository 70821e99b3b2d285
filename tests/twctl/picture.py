"""The picture of `twctl top` in the README: `python -m tests.twctl.picture` draws it.

It is what the screen of `top` makes of samples that could be real ones.
"""

import io
import math
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.terminal_theme import MONOKAI

from teleworkerd.protocol.spec import Limits
from teleworkerd.protocol.status import JobStatus, StreamStatus, Usage
from teleworkerd.protocol.types import MIB, JobState
from tests.twctl.fake_output import make_status
from twctl.commands.screen import Screen
from twctl.sampling import Rates


FILE: Final = Path(__file__).resolve().parents[2] / "docs" / "top.svg"

_SECOND: Final = 10**9  # nanoseconds
_BEGIN: Final = make_status().created_at
_SAMPLES: Final = 14


def example() -> Screen:
    """Return the screen after some samples."""
    screen, rates = Screen("worker.example.org:7443", with_owners=False), Rates()

    for number in range(_SAMPLES):
        at = _BEGIN + (3_600 + number) * _SECOND
        screen.show(rates.sample(at, (_build(number), _train(number), _backup(number))))

    return screen


def draw() -> str:
    """Return the picture as SVG, always the same."""
    console = Console(record=True, width=132, file=io.StringIO(), force_terminal=True)
    console.print(example())
    return console.export_svg(title="twctl top", theme=MONOKAI, unique_id="top")


def _job(
    name: str,
    command: str,
    *,
    age: int,
    limits: Limits,
    usage: Usage,
    written: int = 0,
) -> JobStatus:
    begin = _BEGIN + (3_600 - age) * _SECOND
    first = sum(map(ord, name)) % 0x10000
    return make_status(
        id=f"{first * 65_521:08x}-6f0e-4c6b-9d2e-2f6f5a1b8c3d",
        name=name,
        command=tuple(map(str.encode, command.split())),
        state=JobState.RUNNING,
        exit_code=None,
        created_at=begin,
        started_at=begin,
        limits=limits,
        applied=limits,
        usage=usage,
        stdout=StreamStatus(end=written),
    )


def _build(number: int) -> JobStatus:
    """Return a build that is busy, and near its limit of memory."""
    return _job(
        "build",
        "make -j8 all",
        age=754,
        limits=Limits(mem=2048, cpu=50, pids=4096),
        usage=Usage(
            cpu_seconds=sum(6.6 + 1.3 * math.sin(n) for n in range(number + 1)),
            memory_bytes=int((1500 + 28 * number) * MIB),
            io_read_bytes=number * 31 * MIB,
            io_write_bytes=number * 12 * MIB,
            processes=23,
        ),
        written=number * 41_000,
    )


def _train(number: int) -> JobStatus:
    """Return a job that computes, evenly."""
    return _job(
        "train-17",
        "python3 train.py --epochs 40",
        age=11_160,
        limits=Limits(mem=16_384, cpus=4, pids=4096),
        usage=Usage(
            cpu_seconds=3.97 * number,
            memory_bytes=int((9_800 + 300 * math.sin(number / 2)) * MIB),
            io_read_bytes=number * 4 * MIB,
            io_write_bytes=0,
            processes=9,
        ),
        written=number * 310,
    )


def _backup(number: int) -> JobStatus:
    """Return a job that waits for the disk."""
    return _job(
        "backup",
        "tar --create --zstd --file /backup/srv.tar.zst /srv",
        age=95,
        limits=Limits(mem=256, io=10, pids=4096),
        usage=Usage(
            cpu_seconds=0.21 * number + 0.1 * math.sin(2 * number),
            memory_bytes=int((31 + number % 3) * MIB),
            io_read_bytes=number * 88 * MIB,
            io_write_bytes=number * 40 * MIB,
            processes=2,
        ),
    )


if __name__ == "__main__":
    FILE.write_text(draw(), "utf-8")
