"""What the virtual machine begins with: its first file system."""

import json
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Final

from tests.vm import contents
from tests.vm.cpio import Archive


DIRECTORIES: Final = (
    "/proc",
    "/sys",
    "/dev",
    "/tmp",
    "/run",
    "/root",
    "/var/lib",
    "/var/tmp",
)
PLAN: Final = "/etc/teleworker-vm.json"
MODULES: Final = "/lib/teleworker-vm"
DRIVERS: Final = ("virtio_pci", "virtio_blk", "bfq")


@dataclass(frozen=True, slots=True)
class Plan:
    """What `init.py` is to do in the machine: run *command* in *directory*."""

    directory: str
    command: list[str]
    environment: dict[str, str]
    modules: list[str]


def plan(
    arguments: list[str], environment: dict[str, str], modules: Iterable[str]
) -> Plan:
    """Return the plan to run pytest with *arguments*, as here."""
    python = str(Path(sys.prefix, "bin", "python"))
    return Plan(
        directory=str(contents.ROOT),
        command=[python, "-m", "pytest", *arguments],
        environment=environment,
        modules=[f"{MODULES}/{name}.ko" for name in modules],
    )


def write_image(file: IO[bytes], what: Plan, *, modules: Mapping[str, Path]) -> None:
    """Write to *file* all that *what* needs; with kernel *modules*."""
    archive = Archive(file)

    for name in DIRECTORIES:
        archive.directory(name)

    for path in contents.files():
        archive.add(path)

    for name in ("sh", "bash", "env"):
        found = shutil.which(name) or name

        for place in ("/bin", "/usr/bin"):
            archive.link(f"{place}/{name}", found)

    python = str(Path(sys.executable).resolve())
    archive.link("/usr/bin/python3", python)

    for name, module in modules.items():
        archive.add(module, at=f"{MODULES}/{name}.ko")

    # An editable installation's own way would have every Python begin later.
    packages = sysconfig.get_path("purelib")
    archive.text(f"{packages}/teleworker.pth", f"{contents.ROOT}\n")
    archive.text(PLAN, json.dumps(asdict(what)))
    init = Path(__file__).with_name("init.py").read_text()
    archive.text("/init", f"#!{python} -IS\n{init}", mode=0o755)
    archive.close()
