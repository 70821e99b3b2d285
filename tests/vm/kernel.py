"""The kernel of the virtual machine: Debian's, unpacked but not installed."""

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.vm.error import VmError


PACKAGE: Final = "linux-image-cloud-amd64"
DOWNLOAD: Final = 300.0  # seconds


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel that can be booted, and where its modules are."""

    name: str
    image: Path
    directory: Path  # of its modules

    def modules(self, names: Iterable[str]) -> dict[str, Path]:
        """Return the files of *names* and of all that they need.

        Each stands after what it needs, in the order in which they can be loaded.
        """
        found: dict[str, Path] = {}

        for name in names:
            (file,) = self.directory.rglob(f"{name}.ko")
            found |= self.modules(_needs(file)) | {name: file}

        return found


def fetch_kernel(directory: Path) -> Kernel:
    """Return the kernel that Debian has now; *directory* keeps it for the next time.

    Raises `VmError`.
    """
    name = _package()
    place = directory / name

    if not place.exists():
        _unpack(name, place)

    (image,) = place.glob("boot/vmlinuz-*")
    (directory,) = place.glob("lib/modules/*")
    return Kernel(name, image, directory)


def _needs(module: Path) -> list[str]:
    """Return the modules that *module* says that it needs."""
    found = re.search(rb"\0depends=([^\0]*)\0", module.read_bytes())
    return [name for name in found[1].decode().split(",") if name] if found else []


def _package() -> str:
    """Return the package that *PACKAGE* stands for now."""
    text = _do("apt-cache", "depends", PACKAGE)
    found = re.search(r"Depends: (linux-image-\S+)", text)

    if found is None:
        raise VmError(f"apt knows no {PACKAGE}: run apt-get update, on Debian")

    return found[1]


def _unpack(name: str, place: Path) -> None:
    part = place.with_name(f"{name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    # As root: the account that apt would take may not write there.
    _do("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", name, at=part)
    (package,) = part.glob("*.deb")
    _do("dpkg-deb", "-x", str(package), str(part))
    package.unlink()
    part.rename(place)


def _do(*command: str, at: Path | None = None) -> str:
    """Run *command* and return what it printed."""
    if shutil.which(command[0]) is None:
        raise VmError(f"{command[0]} is missing: the kernel is Debian's, use Debian")

    try:
        done = subprocess.run(
            command,
            cwd=at,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=DOWNLOAD,
        )
    except subprocess.TimeoutExpired:
        raise VmError(f"{' '.join(command)}: not within {DOWNLOAD:g} s") from None

    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise VmError(f"{' '.join(command)}: {why}; try apt-get update")

    return done.stdout
