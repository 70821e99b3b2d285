"""Trees found by a scan of /proc, for hosts on which no group can be made."""

import os
import signal
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from teleworkerd.cgroups import groupfs
from teleworkerd.cgroups.base import CgroupError
from teleworkerd.cgroups.tracking import Tracker, Tree, send


JOB_ID_VARIABLE: Final = "TELEWORKER_JOB_ID"

_MARK: Final = f"{JOB_ID_VARIABLE}=".encode()
_STOP_ROUNDS: Final = 16  # a tree that forks on is stopped long before


@dataclass(frozen=True, slots=True)
class _Process:
    """One line of the process table; `start` tells a reused pid from the old one."""

    pid: int
    parent: int
    start: int


class ProcTree(Tree):
    """The processes that bear the job's id in their environment, and their children.

    What was seen once is remembered, so that a child that has cleared its
    environment is still ours when its parent has ended.
    """

    def __init__(self, job_id: str, *, proc: Path) -> None:
        self._mark = _MARK + job_id.encode()
        self._proc = proc
        self._seen: set[tuple[int, int]] = set()  # (pid, start)

    def make(self) -> None:
        pass

    def exists(self) -> bool:
        return bool(self.pids())

    def open_procs(self) -> list[int]:
        return []

    def pids(self) -> set[int]:
        table = self._table()
        children = defaultdict(list)

        for process in table.values():
            children[process.parent].append(process)

        found: dict[int, _Process] = {}
        waiting = [
            process
            for process in table.values()
            if (process.pid, process.start) in self._seen
            or self._is_marked(process.pid)
        ]

        while waiting:
            process = waiting.pop()

            if process.pid not in found:
                found[process.pid] = process
                waiting += children[process.pid]

        found.pop(os.getpid(), None)
        self._seen = {(process.pid, process.start) for process in found.values()}
        return set(found)

    def kill(self) -> None:
        # What is stopped cannot fork, so that the last round sees all.
        stopped: set[int] = set()

        for _ in range(_STOP_ROUNDS):
            fresh = self.pids() - stopped

            if not fresh:
                break

            send(fresh, signal.SIGSTOP)
            stopped |= fresh

        send(self.pids(), signal.SIGKILL)

    def cpu_seconds(self) -> float | None:
        return None

    def remove(self) -> bool:
        return True

    def _table(self) -> dict[int, _Process]:
        found = map(self._process, _processes(self._proc))
        return {process.pid: process for process in found if process is not None}

    def _process(self, entry: Path) -> _Process | None:
        try:
            stat = (entry / "stat").read_bytes()
        except OSError as error:
            groupfs.check_sight(error)
            return None

        # The name before it may hold anything, closing brackets too.
        fields = stat.rpartition(b")")[2].split()
        state, parent, threads, start = (fields[i] for i in (0, 1, 17, 19))

        # A leader that has ended is a zombie while its other threads live on.
        if state in b"ZXx" and int(threads) <= 1:
            return None

        return _Process(int(entry.name), int(parent), int(start))

    def _is_marked(self, pid: int) -> bool:
        return self._mark in _environment(self._proc / str(pid))


class ProcTracker(Tracker):
    """Finds trees by the environment that every job is started with."""

    name = "proc"

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def tree(self, job_id: str) -> Tree:
        return ProcTree(job_id, proc=self._proc)

    def jobs(self) -> set[str]:
        return {
            os.fsdecode(entry.removeprefix(_MARK))
            for process in _processes(self._proc)
            if process.name != str(os.getpid())
            for entry in _environment(process)
            if entry.startswith(_MARK)
        }

    def close(self) -> None:
        pass


def _processes(proc: Path) -> list[Path]:
    """Return the directory of each process, a zombie's too."""
    try:
        return [entry for entry in proc.iterdir() if entry.name.isdecimal()]
    except OSError as error:
        raise CgroupError.of(error, "look at", proc) from error


def _environment(process: Path) -> list[bytes]:
    """Return the environment that a process began with; empty if it is gone."""
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError as error:
        groupfs.check_sight(error)
        return []
