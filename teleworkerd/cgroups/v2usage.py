"""What the version 2 controllers count, read from the group of one job."""

from contextlib import suppress
from pathlib import Path

from teleworkerd.cgroups.groupfs import read_number, text_of
from teleworkerd.protocol.status import Usage


def read(group: Path, *, processes: int) -> Usage:
    """Return what the job in *group* used, which has so many *processes* now."""
    cpu = read_number(group / "cpu.stat", key="usage_usec")
    bytes_read, written = io_bytes(group)
    return Usage(
        cpu_seconds=None if cpu is None else cpu / 1e6,
        memory_bytes=read_number(group / "memory.current"),
        # Since Linux 5.19.
        memory_peak_bytes=read_number(group / "memory.peak"),
        io_read_bytes=bytes_read,
        io_write_bytes=written,
        processes=processes,
        oom_kills=read_number(group / "memory.events", key="oom_kill"),
    )


def io_bytes(group: Path) -> tuple[int | None, int | None]:
    """Return bytes read and written on block devices; None if nobody counts."""
    with suppress(OSError, ValueError):
        read = written = 0

        for line in text_of(group / "io.stat").splitlines():
            counts = dict(pair.split("=") for pair in line.split()[1:] if "=" in pair)
            read += int(counts.get("rbytes", 0))
            written += int(counts.get("wbytes", 0))

        return read, written

    return None, None
