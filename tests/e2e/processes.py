"""Processes as /proc shows them, safe against the reuse of a pid."""

from dataclasses import dataclass
from pathlib import Path

from tests.e2e.waiting import wait_for


@dataclass(frozen=True, slots=True)
class Process:
    """One process: its pid and the tick in which it was started."""

    pid: int
    started: str

    @property
    def is_alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        fields = _stat(self.pid)
        return (
            fields is not None and fields[19] == self.started and fields[0] not in "ZX"
        )

    @property
    def command(self) -> str:
        """Return its command line, for messages."""
        try:
            line = Path(f"/proc/{self.pid}/cmdline").read_bytes()
        except OSError:
            return "(gone)"

        return line.replace(b"\0", b" ").decode(errors="replace")


def process(pid: int) -> Process:
    """Return the process that has *pid* now; it must exist."""
    fields = _stat(pid)
    assert fields is not None, f"process {pid} does not exist"
    return Process(pid, fields[19])


def descendants(pid: int) -> set[Process]:
    """Return the living processes below *pid*, and itself."""
    children: dict[int, list[Process]] = {}
    found = set()

    for entry in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(entry.name))

        if fields is not None and fields[0] not in "ZX":
            one = Process(int(entry.name), fields[19])
            children.setdefault(int(fields[1]), []).append(one)

            if one.pid == pid:
                found.add(one)

    waiting = [pid]

    while waiting:
        below = children.get(waiting.pop(), [])
        found.update(below)
        waiting.extend(one.pid for one in below)

    return found


def wait_until_gone(processes: set[Process], *, within: float = 10.0) -> None:
    """Wait until none of *processes* runs; fail with those that do."""
    try:
        wait_for(
            lambda: not any(one.is_alive for one in processes),
            what="end of processes",
            within=within,
        )
    except AssertionError:
        left = [(one.pid, one.command) for one in processes if one.is_alive]
        raise AssertionError(f"processes are left: {left}") from None


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the third, state, on."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None

    return text.rpartition(")")[2].split()
