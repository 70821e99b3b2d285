"""Limits are real: what the kernel does with jobs that have them."""

import os
import re
import time
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cgroups.loopdev import bfq_device, writer
from tests.e2e.commandline import Twctl
from tests.e2e.daemon import Daemon
from tests.e2e.groups import CONTROLLERS, group, weight_file


BURN: Final = 3.0  # seconds of wall time in which two jobs compete
IO_START: Final = 3.0  # seconds for both writers to start
IO_WINDOW: Final = 3.0  # seconds that count

# Burns until the deadline that the gate's own time sets for both jobs alike.
COMPETE = """\
import os, sys, time
gate = sys.argv[1]
print("ready", flush=True)
while not os.path.exists(gate):
    pass
end = os.stat(gate).st_mtime + float(sys.argv[2])
begin = time.process_time()
while time.time() < end:
    pass
print(time.process_time() - begin)
"""


def placement(text: str) -> dict[str, str]:
    """Return the path by controller from the text of /proc/PID/cgroup."""
    found = {}

    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)

        for controller in controllers.split(","):
            found[controller] = path

    return {controller: found[controller] for controller in CONTROLLERS}


def number_in(file: Path) -> int:
    """Return the last number of a control file."""
    return int(file.read_text().split()[-1])


def test_place_of_an_unlimited_job(alice: Twctl) -> None:
    """A job without limits is in the common group, in all three controllers."""
    job = alice.run("cat", "/proc/self/cgroup")

    places = placement(alice.output(job))

    assert places == dict.fromkeys(CONTROLLERS, "/teleworker")


@pytest.mark.parametrize(
    "limit", [("--mem", "64"), ("--cpu", "50"), ("--io", "50")], ids=lambda it: it[0]
)
def test_place_of_a_limited_job(alice: Twctl, limit: tuple[str, str]) -> None:
    """A job with any limit has its own group in all three controllers."""
    job = alice.run(*limit, "cat", "/proc/self/cgroup")

    places = placement(alice.output(job))

    assert places == dict.fromkeys(CONTROLLERS, f"/teleworker/{job}")


def test_values_of_the_common_group(alice: Twctl) -> None:
    """The common group, where unlimited jobs are, weighs 1000 in blkio and in cpu."""
    job = alice.run("sleep", "1000")

    assert number_in(group("cpu") / "cpu.shares") == 1000
    assert number_in(weight_file(group("blkio"))) == 1000
    alice("kill", job)


def test_values_of_a_job(alice: Twctl) -> None:
    """1 to 100 percent are 10 to 1000 shares; megabytes are 2**20 bytes."""
    job = alice.run("--cpu", "7", "--io", "31", "--mem", "50", "sleep", "1000")

    assert number_in(group("cpu", job) / "cpu.shares") == 70
    assert number_in(weight_file(group("blkio", job))) == 310
    assert number_in(group("memory", job) / "memory.limit_in_bytes") == 50 << 20
    alice("kill", job)


def test_status_tells_the_limits(alice: Twctl) -> None:
    """What was asked for and what was applied are both in the status."""
    job = alice.run("--mem", "64m", "--cpu", "50", "true")

    limits = alice.ended(job)["limits"]

    assert limits == {
        "requested": {"mem": 64, "cpu": 50, "io": None},
        "applied": {"mem": 64, "cpu": 50},
        "not_applied": {},
    }


@pytest.mark.parametrize(("text", "mem"), [("2g", 2048), ("512m", 512), ("30", 30)])
def test_units_of_memory(alice: Twctl, text: str, mem: int) -> None:
    """--mem takes megabytes, or a number with its unit."""
    job = alice.run("--mem", text, "true")

    assert alice.ended(job)["limits"]["requested"]["mem"] == mem


def test_memory_is_a_hard_limit(alice: Twctl, python: str) -> None:
    """A job that takes more than its --mem is ended, and the reason is `oom`."""
    job = alice.run("--mem", "20", python, "-c", "x = b'x' * (200 << 20); print('no')")

    status: dict[str, Any] = alice.ended(job)

    assert (status["exit_code"], status["reason"]) == (137, "oom")
    assert alice.output(job) == ""


def test_memory_below_the_limit(alice: Twctl, python: str) -> None:
    """A job that stays below its --mem is left alone."""
    job = alice.run("--mem", "200", python, "-c", "x = b'x' * (50 << 20); print('yes')")

    assert alice.output(job) == "yes\n"
    assert alice.ended(job)["reason"] == "exited"


@pytest.mark.cgroup
@pytest.mark.slow
def test_cpu_shares(daemon: Daemon, alice: Twctl, python: str) -> None:
    """On one core, 10 percent against 90 percent get CPU time as 1 to 9."""
    gate = daemon.gate()
    core = str(max(os.sched_getaffinity(0)))
    command = ("taskset", "-c", core, python, "-c", COMPETE, str(gate.path), str(BURN))
    small = alice.run("--cpu", "10", *command)
    large = alice.run("--cpu", "90", *command)

    with (
        alice.start("tail", "-f", small) as small_reader,
        alice.start("tail", "-f", large) as large_reader,
    ):
        small_reader.until(b"ready\n")
        large_reader.until(b"ready\n")
        gate.open()
        seconds = [
            float(reader.finish().stdout.split()[-1])
            for reader in (small_reader, large_reader)
        ]

    assert 9 * 0.7 < seconds[1] / seconds[0] < 9 * 1.3, seconds


@pytest.mark.cgroup
@pytest.mark.slow
def test_io_shares(daemon: Daemon, alice: Twctl, python: str, tmp_path: Path) -> None:
    """On one device, 90 percent write far more than 10 percent."""
    with bfq_device(tmp_path) as device:
        begin = time.monotonic() + IO_START
        jobs = []

        for half, share in enumerate(("10", "90")):
            command = writer(device, half=half, begin=begin, end=begin + IO_WINDOW)
            jobs.append(alice.run("--io", share, python, *command[1:]))

        little, much = (int(alice.output(job)) for job in jobs)

    assert little > 0
    assert much / little > 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cpu", "0"),
        ("cpu", "101"),
        ("cpu", "half"),
        ("io", "0"),
        ("io", "101"),
        ("mem", "0"),
        ("mem", "-5"),
        ("mem", "much"),
        ("mem", str(2**70)),
    ],
)
def test_limit_out_of_range(alice: Twctl, name: str, value: str) -> None:
    """A bad limit starts nothing; the one line names it."""
    done = alice("run", f"--{name}={value}", "true")

    assert done.code == 125
    assert re.search(rf"\b{name}\b", done.error)
