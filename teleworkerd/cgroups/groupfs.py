"""The directories and files of a cgroup hierarchy, with errors that name them."""

import errno
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from teleworkerd.cgroups.base import CgroupError
from teleworkerd.spare import lack_of


ATTEMPTS: Final = 4
PAGE: Final = os.sysconf("SC_PAGE_SIZE")
PROCS: Final = "cgroup.procs"
TOP: Final = "teleworker"

T = TypeVar("T")

# A subgroup that appeared meanwhile counts as busy: the next call sees it.
_BUSY: Final = frozenset({errno.EBUSY, errno.ENOTEMPTY})
_JOB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_READ: Final = 1 << 16  # bytes
_MISSING: Final = frozenset({errno.ENOENT, errno.ENODEV})


def job_group(mount: Path, job_id: str) -> Path:
    """Return the path of a job's own group; raises `CgroupError` for a bad id."""
    group = mount / TOP / job_id

    if not _JOB_ID.fullmatch(job_id):
        raise CgroupError(
            f"job id {job_id!r} cannot be the name of a group;"
            " it may hold A-Z a-z 0-9 _ - only",
            path=group,
            errno=errno.EINVAL,
        )

    return group


def make(group: Path, *, exist_ok: bool = False) -> None:
    """Make *group*; raises `CgroupError`.

    With *exist_ok* it may be there, and another daemon may remove it at any moment.
    """
    for is_last in (*(False,) * (ATTEMPTS - 1), True):
        try:
            group.mkdir(exist_ok=exist_ok)
        except FileExistsError as error:
            # It was there, and was gone when one looked at it.
            if is_last or not exist_ok:
                raise CgroupError.of(error, "make", group) from error
        except OSError as error:
            raise CgroupError.of(error, "make", group) from error
        else:
            return


def restoring(action: Callable[[], T], *, restore: Callable[[], None]) -> T:
    """Return what *action* returns, after *restore* when a group of it is missing.

    Another daemon on this host may remove the empty group `teleworker` at any
    moment. Raises `CgroupError`.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return action()
        except CgroupError as error:
            if error.errno not in _MISSING:
                raise

        restore()

    return action()


def remove(group: Path) -> bool:
    """Remove *group* and all below it; return whether it is gone.

    Raises `CgroupError` when the reason is not that somebody is in it.
    """
    gone = True

    for directory in descend(group):
        try:
            directory.rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in _BUSY:
                raise CgroupError.of(error, "remove", directory) from error

            gone = False

    return gone


def remove_if_unused(group: Path) -> None:
    """Remove *group* unless a process or another group is in it."""
    with suppress(OSError):
        group.rmdir()


def descend(group: Path) -> list[Path]:
    """Return *group* and every group below it, children before their parents.

    Raises `CgroupError` when we lack what it takes to look.
    """
    found, waiting = [], [group]

    # Not by recursion: a job of root's may nest groups as deep as it likes.
    while waiting:
        path = waiting.pop()
        found.append(path)

        try:
            with os.scandir(path) as entries:
                waiting += [
                    Path(entry.path)
                    for entry in entries
                    if entry.is_dir(follow_symlinks=False)
                ]
        except OSError as error:
            check_sight(error)

    return found[::-1]


def names_in(group: Path) -> set[str]:
    """Return the names of the groups right below *group*; none if it is missing.

    Raises `CgroupError` when we lack what it takes to look.
    """
    try:
        with os.scandir(group) as entries:
            return {entry.name for entry in entries if entry.is_dir()}
    except OSError as error:
        check_sight(error)
        return set()


def text_of(file: Path) -> str:
    """Return the text of *file*, which the kernel makes; raises `OSError`.

    Many of them are read each second, and a file object costs more than the file.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)

    try:
        parts = []

        while part := os.read(descriptor, _READ):
            parts.append(part)
    finally:
        os.close(descriptor)

    return b"".join(parts).decode()


def read(file: Path) -> str:
    """Return the text of *file* without its last newline.

    Raises `CgroupError`.
    """
    try:
        return text_of(file).rstrip("\n")
    except OSError as error:
        raise CgroupError.of(error, "read", file) from error


def read_number(file: Path, *, key: str | None = None) -> int | None:
    """Return the number in *file*, or that of its line *key*; None if there is none."""
    with suppress(OSError, ValueError):
        text = text_of(file)

        if key is None:
            return int(text)

        for line in text.splitlines():
            name, _, number = line.partition(" ")

            if name == key:
                return int(number)

    return None


def write(file: Path, value: str) -> None:
    """Write *value* in one call, as the kernel wants it.

    Raises `CgroupError`.
    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)

        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CgroupError.of(error, f"write {value!r} to", file, value=value) from error


def write_number(file: Path, value: int, *, unit: int = 1) -> None:
    """Write *value* and make sure that the kernel stored it, in whole *unit*s.

    Some files take a number that is too large and store another: 2**70 becomes 0
    in `memory.limit_in_bytes`. Raises `CgroupError`.
    """
    write(file, str(value))
    stored = read(file)

    # `blkio.bfq.weight` may be shown as "default 100" when devices have their own.
    number = stored.splitlines()[0].split()[-1] if stored else ""

    if not number.isdecimal() or int(number) // unit != value // unit:
        raise CgroupError(
            f"wrote {value} to {file}, but the kernel stored {stored!r};"
            " the value is out of its range",
            path=file,
            value=str(value),
        )


def write_text(file: Path, value: str) -> None:
    """Write *value* and make sure that the kernel shows the same words.

    Raises `CgroupError`.
    """
    write(file, value)

    if (stored := read(file)).split() != value.split():
        raise CgroupError(
            f"wrote {value!r} to {file}, but the kernel stored {stored!r}",
            path=file,
            value=value,
        )


def write_if_there(file: Path, value: str) -> None:
    """Write *value*, if the kernel has such a file and takes it."""
    with suppress(CgroupError):
        write(file, value)


def open_procs(groups: Iterable[Path]) -> list[int]:
    """Open `cgroup.procs` of each group for writing; the caller closes them.

    Raises `CgroupError`, and then leaves none open.
    """
    descriptors: list[int] = []

    for group in groups:
        file = group / PROCS

        try:
            descriptors.append(os.open(file, os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            close_all(descriptors)
            raise CgroupError.of(error, "open", file) from error

    return descriptors


def close_all(descriptors: Iterable[int]) -> None:
    """Close every descriptor."""
    for descriptor in descriptors:
        os.close(descriptor)


def pids(group: Path) -> set[int]:
    """Return the processes of *group* and of all groups below it.

    Raises `CgroupError` when we lack what it takes to look.
    """
    found: set[int] = set()

    for directory in descend(group):
        try:
            found.update(map(int, text_of(directory / PROCS).split()))
        except OSError as error:
            # The group may be removed at any time; then nothing is in it.
            check_sight(error)

    # 0 stands for a process of another PID namespace, and to signal it would hit us.
    found.discard(0)
    return found


def check_sight(error: OSError) -> None:
    """Raise `CgroupError` if *error* says nothing of the file, but of our sight."""
    if lack_of(error) is not None or error.errno == errno.ENAMETOOLONG:
        raise CgroupError.of(error, "look at", Path(error.filename or "")) from error
