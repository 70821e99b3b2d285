"""How long a line is under way from the job to whoever reads it."""

import os
import shutil
import subprocess
import sys
import time
from functools import partial
from typing import Final

from bench.openssh import OpenSsh
from bench.processes import Program, Running
from bench.section import By, Comparison, Section
from bench.series import MeasurementError, Values, contest, percentile
from bench.setting import Setting


OURS: Final = "TeleWorker"
SSH: Final = "OpenSSH"
PIPE: Final = "limit: pipe"
TIMER: Final = "limit: timer"

INTERVAL: Final = 0.01  # seconds between two lines
WARM_UP: Final = 50  # lines that do not count: somebody may still be connecting

JOB_PATH: Final = "/usr/local/bin:/usr/bin:/bin"  # of accounts other than ours, too

JOB: Final = (
    "import time\n"
    "for _ in range({beats}):\n"
    "    time.sleep({interval})\n"
    "    print(time.time_ns(), flush=True)\n"
)


def measure(setting: Setting) -> Section:
    """Measure the lines of a job that writes one every 10 ms."""
    beats = setting.plan.beats
    script = JOB.format(beats=beats, interval=INTERVAL)
    python = shutil.which("python3", path=JOB_PATH) or sys.executable
    command = (python, "-c", script)
    contestants = {
        OURS: partial(_by_us, setting, command),
        SSH: setting.by_ssh(partial(_by_ssh, setting, command)),
        PIPE: lambda: _read(Program(command), beats),
        TIMER: partial(_by_timer, beats),
    }
    timer = partial(Comparison, by=By.DIFFERENCE)
    return Section(
        "Line latency",
        "ms",
        contest(setting.plan.rounds, contestants),
        [
            timer(f"{OURS}, median", f"{TIMER}, median", at_most=0.5),
            timer(f"{OURS}, p99", f"{TIMER}, p99", at_most=1.5),
            Comparison(f"{OURS}, median", f"{SSH}, median"),
            Comparison(f"{OURS}, p99", f"{SSH}, p99"),
        ],
        [
            (
                f"A job prints `time.time_ns()` every {INTERVAL * 1000:g} ms. The same"
                " reader reads it from the pipe of `twctl run -f`, of `ssh`, or of the"
                " job itself (limit: pipe), and looks at the clock after every read;"
                f" the first {WARM_UP} of {beats} lines do not count. A row is the"
                " median, or the 99th percentile, of the lines of one round."
            ),
            (
                "The timer's error is how much later than asked a process wakes up"
                f" that sleeps {INTERVAL * 1000:g} ms: what this machine adds to any"
                " wait."
            ),
        ],
    )


def _by_us(setting: Setting, command: tuple[str, ...]) -> Values:
    with setting.daemon() as daemon:
        program = daemon.twctl("run", "-f", "--", *command)
        return _read(program, setting.plan.beats)


def _by_ssh(setting: Setting, command: tuple[str, ...], ssh: OpenSsh) -> Values:
    return _read(ssh.ssh(*command), setting.plan.beats)


def _read(program: Program, beats: int) -> Values:
    late: list[float] = []

    with Running(program, stdout=subprocess.PIPE) as running:
        rest = b""

        while data := os.read(running.fd, 1 << 16):
            now = time.time_ns()
            *lines, rest = (rest + data).split(b"\n")
            late += [(now - int(line)) / 1e6 for line in lines]

        running.finish()

    if len(late) != beats:
        raise MeasurementError(f"{len(late)} lines of {beats} arrived")

    return _summary(late)


def _by_timer(beats: int) -> Values:
    late: list[float] = []

    for _ in range(beats):
        begin = time.perf_counter()
        time.sleep(INTERVAL)
        late.append((time.perf_counter() - begin - INTERVAL) * 1000)

    return _summary(late)


def _summary(late: list[float]) -> Values:
    counted = late[WARM_UP:]
    return {"median": percentile(counted, 50), "p99": percentile(counted, 99)}
