"""What of this machine the virtual one has: the files that the tests there need."""

import compileall
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from tests.vm.error import VmError


ROOT: Final = Path(__file__).resolve().parents[2]

# What tests and jobs call.
TOOLS: Final = (
    *("sh", "bash", "cat", "chmod", "cp", "cut", "date", "dd", "echo", "env"),
    *(
        "false",
        "find",
        "grep",
        "head",
        "id",
        "kill",
        "ln",
        "ls",
        "mkdir",
        "mktemp",
        "mv",
    ),
    *("openssl", "rm", "sed", "seq", "setsid", "sleep", "sort", "stat", "tail"),
    *("taskset", "touch", "tr", "true", "uniq", "wc", "yes", "flock"),
)
FILES: Final = (
    *("/etc/group", "/etc/hosts", "/etc/ld.so.cache", "/etc/nsswitch.conf"),
    *("/etc/passwd", "/etc/ssl/openssl.cnf", "/usr/lib/ssl/openssl.cnf"),
)
PROJECT: Final = ("gen_certs.sh", "pyproject.toml", "setup.cfg")
PACKAGES: Final = ("teleworkerd", "tests", "twctl")
OURS: Final = "teleworker"
DISTRIBUTIONS: Final = (OURS, "pytest", "pytest-asyncio", "pytest-timeout")

# Of the standard library: large, and imported by nobody here.
_LEFT_OUT: Final = re.compile(
    r"test|tests|idlelib|tkinter|turtledemo|ensurepip|lib2to3|config-\d.*"
    r"|(site|dist)-packages|.*\.opt-\d\.pyc"
)
_LIBRARY: Final = re.compile(r"(?:=>\s+)?(/\S+) \(0x")


def files() -> Iterator[Path]:
    """Yield every file; shared libraries come last."""
    wanted = [*_system(), *_project(), *_environment(), *_standard_library()]
    yield from wanted
    yield from _libraries(path for path in wanted if _is_program(path))


def _system() -> Iterator[Path]:
    yield from (path for path in map(Path, FILES) if path.exists())
    search = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

    for name in TOOLS:
        found = shutil.which(name, path=search)

        if found is None:
            raise VmError(f"{name} is not installed, which the tests call")

        yield Path(found)


def _project() -> Iterator[Path]:
    for name in PACKAGES:
        # There it would take far longer, and be done anew each time.
        compileall.compile_dir(ROOT / name, quiet=2)
        yield from _below(ROOT / name)

    yield from (ROOT / name for name in PROJECT)


def _environment() -> Iterator[Path]:
    """Yield what is needed of the virtual environment."""
    home = Path(sys.prefix)
    yield home / "pyvenv.cfg"
    yield from (home / "bin").glob("python*")
    yield home / "bin" / "twctl"

    for name, distribution in _distributions(DISTRIBUTIONS).items():
        if name == OURS:  # is found by `image.write_image`'s own means, which are quick
            continue

        for file in distribution.files or ():
            path = Path(os.path.normpath(str(file.locate())))

            if path.exists():
                yield path


def _distributions(names: Iterable[str]) -> dict[str, importlib.metadata.Distribution]:
    """Return what is installed of *names* and of all that they require."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = list(names)

    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()

        if name in found:
            continue

        found[name] = importlib.metadata.distribution(name)

        for line in found[name].requires or ():
            requirement = Requirement(line)
            marker = requirement.marker

            if marker is None or marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)

    return found


def _standard_library() -> Iterator[Path]:
    yield Path(sys.executable).resolve()
    yield from _below(Path(sysconfig.get_path("stdlib")))


def _below(path: Path) -> Iterator[Path]:
    """Yield the files below *path*, but for what nobody needs."""
    for entry in sorted(path.iterdir()):
        if entry.is_dir():
            # Our own tests are below a directory that is called so, not called so.
            if not _LEFT_OUT.fullmatch(entry.name):
                yield from _below(entry)
        elif not _LEFT_OUT.fullmatch(entry.name):
            yield entry


def _is_program(path: Path) -> bool:
    if path.suffix != ".so" and not os.access(path, os.X_OK):
        return False

    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _libraries(programs: Iterable[Path]) -> list[Path]:
    """Return the shared libraries that *programs* load."""
    done = subprocess.run(
        ["ldd", *map(str, programs)], capture_output=True, text=True, check=False
    )
    return sorted({Path(found) for found in _LIBRARY.findall(done.stdout)})
