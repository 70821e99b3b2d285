"""Writes the archive that a Linux kernel unpacks as its first file system."""

import os
import stat
from pathlib import Path
from typing import IO, Final


_HEADER: Final = "070701" + "{:08x}" * 13
_END: Final = "TRAILER!!!"


class Archive:
    """Writes a `cpio` archive in the new ASCII form to *file*; see cpio(5).

    Names are absolute. Each is written once, after the directories that it is in;
    all belongs to root. Times of files are kept, for Python goes by them.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._made = {"/"}
        self._inode = 0

    def add(self, path: Path, *, at: str | None = None) -> None:
        """Add the file *path*, under its own name or *at* another.

        A link under its own name is added as one, with what it leads to.
        """
        name = at or str(path)

        if name in self._made:
            return

        if at is None and path.is_symlink():
            target = str(path.readlink())
            self._entry(name, stat.S_IFLNK | 0o777, target.encode())
            self.add(Path(os.path.normpath(path.parent / target)))
        elif path.is_dir():
            self.directory(name)
        else:
            facts = path.stat()
            mode = stat.S_IFREG | stat.S_IMODE(facts.st_mode) | 0o444
            self._entry(name, mode, path.read_bytes(), mtime=int(facts.st_mtime))

    def directory(self, name: str) -> None:
        """Add the directory *name*, in which everybody may look."""
        if name not in self._made:
            self._entry(name, stat.S_IFDIR | 0o755)

    def link(self, name: str, target: str) -> None:
        """Add *name* as a link to *target*."""
        if name not in self._made:
            self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def text(self, name: str, text: str, *, mode: int = 0o644) -> None:
        """Add a file with *text*."""
        self._entry(name, stat.S_IFREG | mode, text.encode())

    def close(self) -> None:
        """Write the end of the archive."""
        self._write(_END, 0, b"", mtime=0)

    def _entry(
        self, name: str, mode: int, data: bytes = b"", *, mtime: int = 0
    ) -> None:
        self.directory(str(Path(name).parent))
        self._made.add(name)
        self._write(name.lstrip("/"), mode, data, mtime=mtime)

    def _write(self, name: str, mode: int, data: bytes, *, mtime: int) -> None:
        self._inode += 1
        raw = name.encode() + b"\0"
        numbers = (self._inode, mode, 0, 0, 1, mtime, len(data), *[0] * 4, len(raw), 0)
        self._file.write(_padded(_HEADER.format(*numbers).encode() + raw))
        self._file.write(_padded(data))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
