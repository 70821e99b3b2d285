"""The first process of the virtual machine: mounts, runs the tests, and ends it.

It is not imported here: made a program, it is in the image. What came of the tests is
one line of JSON on the second serial port; the first has what pytest prints.
"""

import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import termios
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any


PLAN = "/etc/teleworker-vm.json"
REPORT = "/tmp/teleworker-vm.xml"
RESULT = "/dev/ttyS1"
MOUNTS = (
    ("proc", "/proc", "proc", ""),
    ("sysfs", "/sys", "sysfs", ""),
    ("devtmpfs", "/dev", "devtmpfs", ""),
    ("devpts", "/dev/pts", "devpts", "mode=620,ptmxmode=666"),
    ("tmpfs", "/dev/shm", "tmpfs", "mode=1777"),
    ("cgroup2", "/sys/fs/cgroup", "cgroup2", ""),
)
FINIT_MODULE = 313  # on x86-64
POWER_OFF = 0x4321FEDC
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Do everything; the kernel must not lose its first process before the end."""
    try:
        result = run_tests(json.loads(Path(PLAN).read_text()))
    except BaseException as error:  # noqa: BLE001 - the host must hear of it
        result = {"error": f"{type(error).__name__}: {error}"}

    try:
        tell(result)
    finally:
        LIBC.reboot(POWER_OFF)


def run_tests(plan: dict[str, Any]) -> dict[str, object]:
    """Run what *plan* says; return how it ended."""
    set_up(plan["modules"])
    os.environ.update(plan["environment"])
    done = subprocess.run(
        [*plan["command"], f"--junit-xml={REPORT}"],
        cwd=plan["directory"],
        check=False,
        stderr=sys.stdout,
    )
    cases = list(ET.parse(REPORT).getroot().iter("testcase"))
    skipped = [
        f"{case.get('classname')}.{case.get('name')}: {found.get('message')}"
        for case in cases
        for found in case.iter("skipped")
    ]
    return {"status": done.returncode, "ran": len(cases), "skipped": skipped}


def set_up(modules: list[str]) -> None:
    """Make of a kernel a machine."""
    for source, target, kind, options in MOUNTS:
        Path(target).mkdir(parents=True, exist_ok=True)
        words = (source.encode(), target.encode(), kind.encode(), 0, options.encode())
        check(LIBC.mount(*words), target)

    # The first file system is in memory, too: what stands below /tmp is needed.
    for name in ("/tmp", "/var/tmp"):
        Path(name).chmod(0o1777)

    for module in modules:
        with Path(module).open("rb") as file:
            check(LIBC.syscall(FINIT_MODULE, file.fileno(), b"", 0), module)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


def check(code: int, name: str) -> None:
    """Raise the error of a system call that returned *code*."""
    if code:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)


def tell(result: dict[str, object]) -> None:
    """Let the host know, and wait until all is said."""
    with Path(RESULT).open("w") as port:
        port.write(json.dumps(result) + "\n")
        port.flush()
        termios.tcdrain(port)

    sys.stdout.flush()
    termios.tcdrain(sys.stdout)


main()
