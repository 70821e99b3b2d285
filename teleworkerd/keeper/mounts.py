"""What a job of its own mounts sees in place of what the machine has mounted."""

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Final, Protocol

from teleworkerd.keeper.syscalls import mount, naming


MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19

_DATALESS: Final = MS_NOSUID | MS_NODEV | MS_NOEXEC
_FLAGS: Final = {b"nosuid": MS_NOSUID, b"nodev": MS_NODEV, b"noexec": MS_NOEXEC}
_GROUPS: Final = frozenset({b"cgroup", b"cgroup2"})
_KERNEL: Final = (b"/sys", b"/proc")  # whose files change the machine
SCRATCH: Final = (b"/tmp", b"/var/tmp", b"/dev/shm")
_PROC: Final = (
    *(b"/proc/sys", b"/proc/sysrq-trigger", b"/proc/irq", b"/proc/bus"),
    *(b"/proc/fs", b"/proc/acpi", b"/proc/scsi"),
)
_DEV: Final = Path("/dev")
_DEVICES: Final = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
_LINKS: Final = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}


class Step(Protocol):
    """One thing to be done in the new mount namespace."""

    def make(self) -> None:
        """Do it; raises `OSError` that names the file."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One call of mount(2) for *target*."""

    target: bytes
    flags: int
    source: bytes | None = None
    kind: bytes | None = None
    options: bytes | None = None

    def make(self) -> None:
        """Do it; raises `OSError` that names the target."""
        with naming(os.fsdecode(self.target)):
            mount(self.source, self.target, self.kind, self.flags, self.options)


_OWN_TERMINALS: Final = Mount(
    b"/dev/pts",
    MS_NOSUID | MS_NOEXEC,
    b"devpts",
    b"devpts",
    b"newinstance,ptmxmode=0666,mode=620",
)


@dataclass(frozen=True, slots=True)
class Device:
    """A character device that everybody may use."""

    path: Path
    number: int

    def make(self) -> None:
        """Make it, by a umask of 0; raises `OSError`."""
        os.mknod(self.path, 0o666 | stat.S_IFCHR, self.number)


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    path: Path
    target: str

    def make(self) -> None:
        """Make it; raises `OSError`."""
        self.path.symlink_to(self.target)


@dataclass(frozen=True, slots=True)
class Directory:
    """An empty directory, to mount at."""

    path: Path

    def make(self) -> None:
        """Make it; raises `OSError`."""
        self.path.mkdir(0o755)


@dataclass(frozen=True, slots=True)
class Mounted:
    """One line of the mount table; *flags* are those that a remount must repeat."""

    id: bytes
    parent: bytes
    point: bytes
    flags: int
    kind: bytes


@lru_cache(maxsize=1)
def read_mounts(table: bytes) -> tuple[Mounted, ...]:
    """Return what of `/proc/self/mountinfo` a job may not write, and can be seen.

    Those are the control groups, wherever they are mounted, and all at or below
    /sys and /proc.
    """
    mounts = [_read_line(line.split(b" ")) for line in table.splitlines()]
    return tuple(
        mounted
        for mounted in mounts
        if (mounted.kind in _GROUPS or any(_is_at(mounted.point, it) for it in _KERNEL))
        and not _is_hidden(mounted, mounts)
    )


def _read_line(fields: Sequence[bytes]) -> Mounted:
    flags = 0

    for option in fields[5].split(b","):
        flags |= _FLAGS.get(option, 0)

    # The kernel writes a blank and its like as \040.
    point = fields[4].decode("unicode_escape").encode("latin-1")
    kind = fields[fields.index(b"-") + 1]
    return Mounted(fields[0], fields[1], point, flags, kind)


def _is_hidden(mounted: Mounted, others: Sequence[Mounted]) -> bool:
    """Whether another covers it, or one on its parent or on one above that."""
    # A root that the kernel unpacked itself is mounted on itself, and covers nothing.
    others = [other for other in others if other.id != other.parent]
    by_id = {other.id: other for other in others}
    place: Mounted | None = mounted

    while place is not None:
        for other in others:
            if other.parent == place.parent and _is_below(place.point, other.point):
                return True

        place = by_id.get(place.parent)

    return any(
        other.parent == mounted.id and other.point == mounted.point for other in others
    )


def _is_below(path: bytes, directory: bytes) -> bool:
    return path != directory and path.startswith(directory.rstrip(b"/") + b"/")


def _is_at(path: bytes, directory: bytes) -> bool:
    return path == directory or _is_below(path, directory)


def detach(mounts: Iterable[Mounted]) -> list[Step]:
    """Let nothing that is mounted in here be seen outside.

    What the machine unmounts later is unmounted here too, else it would be kept
    busy; what it mounts comes in, but not where it could be written to.
    """
    points = {mounted.point for mounted in mounts}
    return [
        Mount(b"/", MS_REC | MS_SLAVE),
        *(Mount(path, MS_REC | MS_PRIVATE) for path in _KERNEL if path in points),
    ]


def own_processes() -> list[Step]:
    """Have a /proc of the PID namespace that we are in."""
    return [Mount(b"/proc", _DATALESS, b"proc", b"proc")]


def read_only(mounts: Iterable[Mounted], *, own_processes: bool) -> list[Step]:
    """Make the control groups, /sys and what changes the machine in /proc so.

    What is mounted below those of /proc is, too; there is nothing in one that is
    our own.
    """
    steps: list[Step] = []

    for path in _changing():
        steps.append(Mount(path, MS_BIND | MS_REC, path))
        steps.append(_remount(path, _DATALESS))

    for mounted in mounts:
        is_of_processes = _is_at(mounted.point, b"/proc")

        # To look at one of autofs would mount what it stands for.
        if (
            mounted.point == b"/proc"
            or mounted.kind == b"autofs"
            or (is_of_processes and own_processes)
        ):
            continue

        steps.append(_remount(mounted.point, mounted.flags))

    return steps


@cache
def _changing() -> tuple[bytes, ...]:
    return tuple(filter(os.path.exists, _PROC))


def _remount(path: bytes, flags: int) -> Mount:
    return Mount(path, MS_REMOUNT | MS_BIND | MS_RDONLY | flags)


def own_groups(mounts: Iterable[Mounted], groups: Iterable[bytes]) -> list[Step]:
    """Have the job find its own groups, directories, where hierarchies begin.

    That is what its `/proc/self/cgroup` says once it has a namespace of them.
    """
    steps: list[Step] = []

    for group in groups:
        above = [
            mounted
            for mounted in mounts
            if mounted.kind in _GROUPS and _is_below(group, mounted.point)
        ]

        if above:
            root = max(above, key=lambda mounted: len(mounted.point))
            steps.append(Mount(root.point, MS_BIND, group))
            steps.append(_remount(root.point, root.flags))

    return steps


def covers(directories: Iterable[Path]) -> list[Step]:
    """Cover *directories* by empty ones that nobody may enter."""
    return [
        Mount(
            os.fsencode(path.absolute()),
            MS_RDONLY | _DATALESS,
            b"teleworker",
            b"tmpfs",
            b"mode=0,size=4k,nr_inodes=1",
        )
        for path in directories
    ]


def own_devices() -> list[Step]:
    """Have a /dev of the devices that every program expects, and no disk."""
    return [
        Mount(
            b"/dev",
            MS_NOSUID | MS_NOEXEC,
            b"teleworker",
            b"tmpfs",
            b"mode=755,size=64k",
        ),
        *(
            Device(_DEV / name, os.makedev(*number))
            for name, number in _DEVICES.items()
        ),
        *(Link(_DEV / name, target) for name, target in _LINKS.items()),
        Directory(_DEV / "shm"),
        Directory(_DEV / "pts"),
        _OWN_TERMINALS,
    ]


def own_terminals() -> list[Step]:
    """Have no terminals but those that one makes: others' of one account are open.

    The job's own stays what it is, without a name there.
    """
    return [_OWN_TERMINALS] if Path("/dev/pts").is_dir() else []


def own_scratch(size: int) -> list[Step]:
    """Have empty directories of at most *size* bytes each for what is temporary.

    They vanish with the namespace, and count as memory of who fills them.
    """
    return [
        Mount(
            path,
            MS_NOSUID | MS_NODEV,
            b"teleworker",
            b"tmpfs",
            b"mode=1777,size=%d" % size,
        )
        for path in SCRATCH
        if Path(os.fsdecode(path)).is_dir()
    ]
