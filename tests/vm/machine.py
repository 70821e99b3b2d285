"""A virtual machine that runs one image and ends."""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Final, Literal

from tests.vm.error import VmError
from tests.vm.kernel import Kernel


Accelerator = Literal["kvm", "tcg"]

PROGRAM: Final = "qemu-system-x86_64"
PROCESSORS: Final = 2
MEMORY: Final = 3072  # MiB
DISK: Final = 64 << 20  # bytes
DISK_NAME: Final = "/dev/vda"  # as the machine has it

# Who kills the kernel's first process ends the machine (panic=-1). All controllers
# are version 2's; time is what the processor says it is, which QEMU keeps in order.
KERNEL_LINE: Final = (
    "console=ttyS0 quiet panic=-1 cgroup_no_v1=all rdinit=/init"
    " random.trust_cpu=on mitigations=off tsc=reliable no_timer_check"
)
_PROBE_LINE: Final = "console=ttyS0 earlyprintk=ttyS0 panic=-1"
_PROBE: Final = 10.0  # seconds; a kernel that KVM can run says something in one

# What emulates all of a processor is faster without the widest addresses. It has one
# thread for both: with two, it at times goes on with what it had translated before the
# kernel patched its scheduler (which it does at the first and the last cap of CPU), and
# the machine hangs in a breakpoint that is not there.
_ACCELERATION: Final[dict[Accelerator, tuple[str, ...]]] = {
    "kvm": ("-accel", "kvm", "-cpu", "host"),
    "tcg": ("-accel", "tcg,thread=single", "-cpu", "max,la57=off"),
}


def choose_accelerator(kernel: Kernel) -> Accelerator:
    """Return what can run *kernel* here, the faster if it can.

    There are hosts with a /dev/kvm that never gets a usual kernel to its first word.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"

    with subprocess.Popen(
        [*_command("kvm", kernel, _PROBE_LINE), "-serial", "stdio"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        alarm = threading.Timer(_PROBE, process.kill)
        alarm.start()

        try:
            assert process.stdout is not None
            return "kvm" if b"Linux version" in process.stdout.read() else "tcg"
        finally:
            alarm.cancel()
            process.kill()


def run(kernel: Kernel, image: Path, *, accelerator: Accelerator, within: float) -> str:
    """Boot *kernel* with *image*, show what it prints, and return its last word.

    That is what it wrote to its second serial port. Raises `VmError` when the machine
    does not end *within* so many seconds.
    """
    with tempfile.TemporaryDirectory(prefix="teleworker-vm-") as scratch:
        disk, result = Path(scratch, "disk"), Path(scratch, "result")
        # Blocks that exist beforehand: to allocate them would be work of the host.
        disk.write_bytes(bytes(DISK))
        command = [
            *_command(accelerator, kernel, KERNEL_LINE),
            *("-initrd", str(image)),
            *("-drive", f"file={disk},if=virtio,format=raw"),
            *("-serial", "stdio", "-serial", f"file:{result}"),
        ]

        if not _show(command, within=within):
            raise VmError(f"the virtual machine did not end within {within:g} s")

        return result.read_text() if result.exists() else ""


def _command(accelerator: Accelerator, kernel: Kernel, line: str) -> list[str]:
    return [
        *(PROGRAM, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *_ACCELERATION[accelerator],
        *("-smp", str(PROCESSORS), "-m", str(MEMORY)),
        *("-kernel", str(kernel.image), "-append", line),
    ]


def _show(command: list[str], *, within: float) -> bool:
    """Run *command*, its output on ours; return whether it ended by itself."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=None) as process:
        try:
            process.wait(within)
        except subprocess.TimeoutExpired:
            return False
        finally:
            process.kill()
            sys.stdout.flush()

    return True
