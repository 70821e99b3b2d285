"""A wall clock that can be stepped while the daemon runs, by libfaketime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.e2e.processes import process


LIBRARY: Final = "*/faketime/libfaketime.so.1"
AHEAD: Final = 6 * 3600  # seconds; certificates are not valid much before now
SHARED_MEMORY: Final = Path("/dev/shm")


class WallClock:
    """What time the daemon believes it is; `is_there` where that can be changed."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "clock"
        self._library = next(iter(sorted(Path("/usr/lib").glob(LIBRARY))), None)
        self._others = _shared_files()
        self.step(0.5)

    @property
    def is_there(self) -> bool:
        """Whether libfaketime is installed."""
        return self._library is not None

    @property
    def environment(self) -> Mapping[str, str]:
        """What the daemon's environment needs."""
        if self._library is None:
            return {}

        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def step(self, amount: float) -> None:
        """Set the clock from 0 to twelve hours ahead; 0.5 is where it began."""
        new = self._file.with_suffix(".new")
        new.write_text(f"+{2 * AHEAD * amount:.3f}\n")
        new.chmod(0o644)
        new.rename(self._file)

    def tidy(self) -> None:
        """Remove what libfaketime leaves of processes that were killed."""
        for path in _shared_files() - self._others:
            if not _is_running(int(path.name.rpartition("_")[2])):
                path.unlink(missing_ok=True)


def _shared_files() -> set[Path]:
    return set(SHARED_MEMORY.glob("*faketime_s*_*"))


def _is_running(pid: int) -> bool:
    try:
        return process(pid).is_alive
    except AssertionError:
        return False
