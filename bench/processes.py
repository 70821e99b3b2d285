"""Programs that are run, timed and ended, and what they cost."""

import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Self

from bench.series import MeasurementError


ROOT: Final = Path(__file__).resolve().parent.parent
PATIENCE: Final = 120.0  # seconds; what takes longer hangs
END: Final = 20.0  # seconds; the daemon gives its jobs ten
LOOK: Final = 0.02  # seconds between two looks
QUIET: Final = 0.4  # seconds
NOISE: Final = 0.002  # seconds of CPU time in those

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TAIL: Final = 500  # characters of stderr that a message repeats


@dataclass(frozen=True, slots=True)
class Program:
    """A command and its environment (None: our own)."""

    argv: tuple[str, ...]
    env: Mapping[str, str] | None = None


class Running:
    """A program that runs; ends with the `with` block at the latest."""

    def __init__(self, program: Program, *, stdout: int = subprocess.DEVNULL) -> None:
        self._name = " ".join(program.argv)[:100]
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self.process = subprocess.Popen(  # noqa: S603 - the commands are our own
            program.argv,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=self._stderr,
            env=program.env,
            cwd=ROOT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

        if self.process.stdout is not None:
            self.process.stdout.close()

        self._stderr.close()

    @property
    def fd(self) -> int:
        """The descriptor from which its stdout is read."""
        if self.process.stdout is None:
            raise ValueError(f"{self._name} was started without a pipe")

        return self.process.stdout.fileno()

    def finish(self, *, within: float = PATIENCE) -> None:
        """Wait for its end; raises `MeasurementError` when that is not a good one."""
        # A wait with a time-out of subprocess looks every 50 ms only.
        end = os.pidfd_open(self.process.pid)

        try:
            is_over = bool(select.select([end], [], [], within)[0])
        finally:
            os.close(end)

        if not is_over:
            raise MeasurementError(f"{self._name} ran for {within:g} s")

        if (code := self.process.wait()) != 0:
            raise MeasurementError(f"{self._name} ended with {code}: {self.errors()}")

    def errors(self) -> str:
        """Return the end of what it wrote to stderr."""
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace")[-_TAIL:].strip()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Hold it by SIGSTOP meanwhile."""
        self.process.send_signal(signal.SIGSTOP)

        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


def spawn(program: Program, *, log: Path) -> subprocess.Popen[bytes]:
    """Start what serves others; all that it says goes to *log*. See `end`."""
    with log.open("wb") as file:
        return subprocess.Popen(  # noqa: S603 - the commands are our own
            program.argv,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=program.env,
            cwd=ROOT,
        )


def time_of(program: Program) -> float:
    """Run *program*, its output to /dev/null, and return the seconds it took."""
    begin = time.perf_counter()

    with Running(program) as running:
        running.finish()
        return time.perf_counter() - begin


def output_of(program: Program) -> str:
    """Run *program* and return what it printed, without white space around it."""
    with Running(program, stdout=subprocess.PIPE) as running:
        data = bytearray()

        while chunk := os.read(running.fd, 1 << 16):
            data += chunk

        running.finish()
        return data.decode().strip()


def end(process: subprocess.Popen[bytes], *, within: float = END) -> None:
    """End *process* by SIGTERM, and by SIGKILL what then is left of its tree."""
    with ExitStack() as exits:
        members: list[int] = []

        for pid in (process.pid, *family(process.pid)):
            with suppress(ProcessLookupError):
                members.append(os.pidfd_open(pid))
                exits.callback(os.close, members[-1])

        process.terminate()

        with suppress(subprocess.TimeoutExpired):
            process.wait(within)

        for member in members:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(member, signal.SIGKILL)

        process.wait()


def family(pid: int) -> set[int]:
    """Return the processes below *pid*."""
    found: set[int] = set()

    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, children.read_text().split()):
                found |= {child} | family(child)

    return found


def resident(pids: Iterable[int]) -> int:
    """Return the resident memory of *pids* in bytes; what they share counts twice."""
    total = 0

    for pid in pids:
        with suppress(OSError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE

    return total


def wait_until_quiet(*, within: float = PATIENCE) -> None:
    """Wait until nothing that we started has used the processor for a while.

    So have readers connected and asked, whatever program they are.
    """
    seen, since = _cpu_seconds(), time.monotonic()

    def is_quiet() -> bool:
        nonlocal seen, since
        now = _cpu_seconds()

        if abs(now - seen) > NOISE:
            seen, since = now, time.monotonic()

        return time.monotonic() - since > QUIET

    wait_for(is_quiet, what="rest", within=within)


def wait_for(
    is_there: Callable[[], bool], *, what: str, within: float = PATIENCE
) -> None:
    """Look until *is_there*; raises `MeasurementError` when it takes too long."""
    deadline = time.monotonic() + within

    while not is_there():
        if time.monotonic() > deadline:
            raise MeasurementError(f"no {what} within {within:g} s")

        time.sleep(LOOK)


def ticks_used() -> int:
    """Return the processor time of this process and all that it started, in ticks."""
    total = 0

    for pid in {os.getpid()} | family(os.getpid()):
        with suppress(OSError):
            # The name, in parentheses, may hold spaces.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))  # its own, and its dead children's

    return total


def _cpu_seconds() -> float:
    total = 0

    for pid in family(os.getpid()):
        with suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                total += int((thread / "schedstat").read_text().split()[0])

    return total / 1e9
