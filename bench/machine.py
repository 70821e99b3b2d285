"""The machine that a run was made on, and how busy it was with other work."""

import mmap
import os
import platform
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from bench.plan import GIB
from bench.processes import Program, output_of, ticks_used


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a group of measurements was; percent of all processors' time.

    *average* is the load average when it began, *others* what went to work that
    is not ours (the kernel's own counts as such), *stolen* what the hypervisor
    gave to other machines.
    """

    average: float
    others: float
    stolen: float

    def __str__(self) -> str:
        return (
            f"{self.average:.2f} before; meanwhile {self.others:.0f} % of the"
            f" processors' time went to other work and {self.stolen:.0f} % to other"
            " machines"
        )


class LoadWatch:
    """Watches the processors from its making on."""

    def __init__(self) -> None:
        self._average = os.getloadavg()[0]
        self._times = _processor_times()
        self._ours = ticks_used()

    def look(self) -> Load:
        """Return the load since then."""
        times = zip(_processor_times(), self._times, strict=True)
        passed = [now - then for now, then in times]
        total = sum(passed) or 1
        idle, waiting, stolen = passed[3], passed[4], passed[7]
        others = total - idle - waiting - stolen - (ticks_used() - self._ours)
        return Load(self._average, 100 * max(others, 0) / total, 100 * stolen / total)


def touch_memory(size: int) -> int:
    """Use *size* bytes once, or half of what is free; return how many it was.

    A virtual machine gets a page from its hypervisor when it first touches it,
    which takes long, and whoever fills the page cache would pay for it.
    """
    size = min(size, _memory("MemAvailable") // 2)

    with mmap.mmap(-1, size) as memory:
        for offset in range(0, size, mmap.PAGESIZE):
            memory[offset] = 1

    return size


def describe(state: Path) -> dict[str, str]:
    """Return what one should know of the machine, by name."""
    return {
        "processors": f"{os.cpu_count()} x {_processor()}",
        "memory": f"{_memory('MemTotal') / GIB:.0f} GiB",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "OpenSSL of Python": ssl.OPENSSL_VERSION,
        "file system of the state directory": file_system(state),
        "control groups": _control_groups(),
    }


def file_system(path: Path) -> str:
    """Return the type of the file system that holds *path*."""
    return output_of(Program(("df", "--output=fstype", str(path)))).split()[-1]


def _control_groups() -> str:
    root = Path("/sys/fs/cgroup")
    unified = (root / "cgroup.controllers").exists()
    return "version 2" if unified else "version 1" if root.is_dir() else "none"


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text()
    names = re.findall(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return names[0] if names else platform.machine()


def _memory(name: str) -> int:
    text = Path("/proc/meminfo").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 2 * GIB


def _processor_times() -> list[int]:
    first = Path("/proc/stat").read_text().partition("\n")[0]
    return [int(field) for field in first.split()[1:9]]
