"""What the version 1 controllers count, read from the groups of one job."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from teleworkerd.cgroups.base import Groups
from teleworkerd.cgroups.groupfs import read_number, text_of
from teleworkerd.protocol.status import Usage


# By the throttling layer, on every device, or by BFQ on the devices it schedules. Newer
# kernels keep the first only for devices that have a throttle. The second of each pair
# is for kernels that do not count the groups below.
_IO_FILES: Final = (
    ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_service_bytes"),
    ("blkio.bfq.io_service_bytes_recursive", "blkio.bfq.io_service_bytes"),
)


def fill(usage: Usage, own: Groups) -> Usage:
    """Return *usage* with what the job's own groups count."""
    if (cpu := own.get("cpu")) is not None:
        # Only where cpuacct is mounted together with cpu.
        used = read_number(cpu / "cpuacct.usage")
        usage = usage if used is None else replace(usage, cpu_seconds=used / 1e9)

    if (memory := own.get("memory")) is not None:
        usage = replace(
            usage,
            memory_bytes=read_number(memory / "memory.usage_in_bytes"),
            memory_peak_bytes=read_number(memory / "memory.max_usage_in_bytes"),
            oom_kills=read_number(memory / "memory.oom_control", key="oom_kill"),
        )

    if (blkio := own.get("blkio")) is not None:
        read, written = io_bytes(blkio)
        usage = replace(usage, io_read_bytes=read, io_write_bytes=written)

    return usage


def io_bytes(group: Path) -> tuple[int | None, int | None]:
    """Return bytes read and written on block devices.

    Both are None when the kernel lists no device: it prints a total of 0 where it
    does not count at all.
    """
    counts: dict[tuple[str, str], int] = {}

    for names in _IO_FILES:
        for device, direction, count in _device_lines(group, names):
            key = (direction, device)
            counts[key] = max(count, counts.get(key, 0))

    if not counts:
        return None, None

    return _total(counts, "Read"), _total(counts, "Write")


def _total(counts: Mapping[tuple[str, str], int], wanted: str) -> int:
    return sum(count for (direction, _), count in counts.items() if direction == wanted)


def _device_lines(group: Path, names: Iterable[str]) -> list[tuple[str, str, int]]:
    for name in names:
        with suppress(OSError):
            rows = [line.split() for line in text_of(group / name).splitlines()]
            # The last line has two words: the total.
            return [(row[0], row[1], int(row[2])) for row in rows if len(row) == 3]

    return []
