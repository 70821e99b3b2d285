"""A small disk for the daemon's state, and the fault that it is full."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.chaos import job
from tests.chaos.history import Truth
from tests.e2e.daemon import Place


SIZE: Final = 96 << 20  # bytes of the disk
CHUNK: Final = 1 << 20  # bytes that are taken at once, and then less and less
LEAST: Final = 512
HEADER: Final = 100  # bytes at the beginning of a database


class SmallDisk(Place):
    """Directories whose state is on a disk of its own, where one can be mounted."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = self.base / "disk"
        self.disk.mkdir(mode=0o755)
        self.state = self.disk / "state"
        self.is_mounted = self._mount()
        self.program = self.shared / "job.py"
        shutil.copy(Path(job.__file__), self.program)
        self.program.chmod(0o644)

    @property
    def ledger(self) -> Path:
        """Where the jobs note what they do."""
        return self.shared / job.LEDGER

    @property
    def free(self) -> float:
        """How much of the disk is free, from 0 to 1."""
        disk = os.statvfs(self.disk)
        return disk.f_bavail / disk.f_blocks

    def fill(self, rest: int) -> None:
        """Take all the room there is, but for some *rest* bytes."""
        size = CHUNK

        with (self.disk / "ballast").open("ab", buffering=0) as ballast:
            while size >= LEAST:
                try:
                    ballast.write(bytes(size))
                except OSError:
                    size //= 2

            ballast.truncate(max(0, ballast.tell() - rest))

    def empty(self) -> None:
        """Give the room back."""
        (self.disk / "ballast").unlink(missing_ok=True)

    def lose_database(self, amount: float) -> None:
        """Remove the database, half of it, or what tells that it is one."""
        database = self.state / "jobs.sqlite"

        if amount < 0.5:
            for path in self.state.glob(f"{database.name}*"):
                path.unlink()
        elif database.exists():
            with database.open("r+b") as file:
                if amount < 0.75:
                    file.truncate(database.stat().st_size // 2)
                else:
                    file.write(bytes(HEADER))

    def remove(self) -> None:
        """Unmount the disk and remove everything."""
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", self.disk], check=True)

        super().remove()

    def _mount(self) -> bool:
        options = ("-o", f"size={SIZE},mode=755")
        mount = ["mount", "-t", "tmpfs", *options, "tmpfs", str(self.disk)]

        try:
            done = subprocess.run(mount, capture_output=True, check=False, timeout=10)
        except FileNotFoundError:
            return False

        return done.returncode == 0


@contextmanager
def small_disk() -> Iterator[SmallDisk]:
    """Make the directories, and remove them whatever happens."""
    place = SmallDisk()

    try:
        yield place
    finally:
        place.remove()


def read_ledger(path: Path) -> Truth:
    """Return what the jobs noted, and which of their children still run."""
    lines = path.read_text().splitlines() if path.exists() else []
    notes = [line.split() for line in lines]
    starts = [words for words in notes if words[0] == "start"]
    children = [words for words in notes if words[0] == "child"]
    return Truth(
        starts=tuple(words[1] for words in starts),
        ends=frozenset(words[1] for words in notes if words[0] == "end"),
        unclean=frozenset(words[1] for words in starts if words[2] != "clean"),
        alive=frozenset(words[1] for words in children if _is_left(int(words[2]))),
    )


def _is_left(pid: int) -> bool:
    line = b""

    with suppress(OSError):
        line = Path(f"/proc/{pid}/cmdline").read_bytes()

    return line.split(b"\0")[:2] == [word.encode() for word in job.LEFT_BEHIND]
