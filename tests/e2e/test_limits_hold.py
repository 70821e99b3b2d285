"""What limits do to jobs, whichever version of control groups the host has."""

import asyncio
import time
from pathlib import Path
from typing import Any, Final

import pytest

import twctl
from tests.e2e.commandline import Twctl
from tests.e2e.daemon import Daemon, StartDaemon
from tests.e2e.groups import left_of
from tests.e2e.pki import Certificates
from tests.e2e.waiting import PATIENCE, wait_for


pytestmark = pytest.mark.cgroup

EATER: Final = "x = bytearray(200 << 20)"  # bytes that no limit here allows
CHILD: Final = f"""
import subprocess, sys
done = subprocess.run([sys.executable, "-c", {EATER!r}])
print(done.returncode)
"""
PIDS: Final = 300
RUNS: Final = 50 if PATIENCE == 1 else 5  # times ten
BURN: Final = 4.0  # seconds
TRIES: Final = 4
BURNER: Final = f"""
import time
end, begin = time.monotonic() + {BURN}, time.process_time()
while time.monotonic() < end: pass
print(time.process_time() - begin)
"""
# Counts how often it comes round in each of some equal spans of time.
PACER: Final = """
import os, sys, time
while True:
    end, rounds = time.monotonic() + 0.25, 0
    while time.monotonic() < end:
        rounds += 1
        os.getppid()
    print(rounds, flush=True)
"""
BOMB: Final = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(1, b"lit\\n")
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
HERMIT: Final = """
import os, signal
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
if os.fork():
    signal.pause()
os.setsid()
if os.fork():
    os._exit(0)
os.write(1, b"lit\\n")
signal.pause()
"""


def ended(alice: Twctl, job: str) -> dict[str, Any]:
    """Return the status of *job* once it has ended."""
    status: dict[str, Any] = alice.ended(job)
    return status


@pytest.mark.v2
def test_memory_of_the_main_process(alice: Twctl, python: str) -> None:
    """Who takes more than --mem is ended, for that reason, and it is counted."""
    job = alice.run("--mem", "50", python, "-c", EATER)

    status = ended(alice, job)

    assert (status["exit_code"], status["reason"]) == (137, "oom")
    assert status["usage"]["oom_kills"] >= 1
    assert 0 < status["usage"]["memory_peak_bytes"] <= 50 << 20


def test_memory_of_a_child(alice: Twctl, python: str) -> None:
    """A child that takes too much is ended: alone on version 1, with all on 2."""
    job = alice.run("--mem", "50", python, "-c", CHILD)

    status = ended(alice, job)

    if alice("info", "-o", "json").json["cgroups"] == "v1":
        assert alice.output(job) == "-9\n"
        assert (status["exit_code"], status["reason"]) == (0, "exited")
    else:
        assert (status["exit_code"], status["reason"]) == (137, "oom")

    assert status["usage"]["oom_kills"] >= 1


def test_kill_is_no_lack_of_memory(alice: Twctl) -> None:
    """A job within its memory that somebody kills was killed."""
    job = alice.run("--mem", "50", "sleep", "1000")
    alice("kill", job)

    assert ended(alice, job)["reason"] == "killed"


@pytest.mark.slow
def test_cap_of_cpu(alice: Twctl, python: str) -> None:
    """With --cpus 0.5 a job gets half of a processor, though more is free."""
    shares: list[float] = []

    # Other tests run beside this one, and may leave less than half.
    while not shares or (max(shares) <= 0.9 and len(shares) < TRIES):
        job = alice.run("--cpus", "0.5", python, "-c", BURNER)
        shares.append(float(alice.output(job)) / (BURN / 2))

    assert 0.9 < max(shares) < 1.1, shares


def test_bound_of_processes(alice: Twctl) -> None:
    """With --pids 3 there is no fourth process, and the job sees an error."""
    script = "sleep 60 & sleep 60 & sleep 60; echo $?"
    job = alice.run("--pids", "3", "sh", "-c", script)

    status = ended(alice, job)

    assert "fork" in alice("tail", "--err", job).stdout.decode().lower()
    assert status["limits"]["applied"] == {"pids": 3}


def test_default_bound_of_processes(alice: Twctl) -> None:
    """Who names no bound has the server's, which the status tells apart."""
    job = alice.run("true")

    status = ended(alice, job)

    assert status["limits"]["applied"] == {}
    assert status["default_limits"] == {"pids": 4096}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_fork_bomb(start_daemon: StartDaemon, certs: Certificates, python: str) -> None:
    """With a default bound a fork bomb is harmless, and gone when it is killed."""
    daemon = start_daemon(config=f"[limits]\npids = {PIDS}\n")
    alice = Twctl(daemon, certs.of("alice"))
    pacer = alice.run("--cpu", "100", python, "-c", PACER)

    with alice.start("tail", "-f", pacer) as lines:
        lines.until_lines(8)
        before = pace(lines.until_lines(8))
        # One share of many: the bomb has what others leave.
        bomb = alice.run("--cpu", "1", python, "-c", BOMB)
        wait_for(lambda: processes(alice, bomb) == PIDS, what="the bomb", within=120)
        count = len(lines.until_lines(1).splitlines())
        after = pace(lines.until_lines(count + 8, within=60))

    alice("kill", bomb)
    status = ended(alice, bomb)
    alice("kill", pacer)

    assert status["reason"] == "killed"
    assert left_of([bomb]) == []
    assert after > before / 4, (before, after)


def pace(printed: bytes) -> float:
    """Return how often the pacer came round lately."""
    rounds = [int(line) for line in printed.splitlines()[-6:] if line.isdigit()]
    return sorted(rounds)[len(rounds) // 2]


def processes(alice: Twctl, job: str) -> int:
    """Return how many processes *job* has now; those of others may be starting, too."""
    usage = alice("status", "-o", "json", job, within=120).json["usage"]
    return int(usage["processes"] or 0)


@pytest.mark.parametrize("program", [HERMIT, BOMB], ids=["hermit", "bomb"])
def test_kill_of_who_resists(alice: Twctl, python: str, program: str) -> None:
    """Whoever ignores signals, leaves its session or forks on: all are gone at once."""
    job = alice.run("--pids", "100", python, "-c", program)

    with alice.start("tail", "-f", job) as lines:
        lines.until(b"lit\n")
        begin = time.monotonic()
        alice("kill", job)
        status = ended(alice, job)

    # What it bounds takes a tenth; other tests may run beside this one.
    assert time.monotonic() - begin < 10 * PATIENCE
    assert (status["state"], status["exit_code"]) == ("stopped", 137)
    assert left_of([job]) == []


@pytest.mark.parametrize("how", ["exit", "kill", "oom", "timeout", "failure"])
def test_use_is_known_and_groups_are_gone(alice: Twctl, python: str, how: str) -> None:
    """However a job ends, what it used is told, and no group of it is left."""
    limits = ("--mem", "50", "--cpu", "50", "--pids", "20")
    command = {
        "exit": (*limits, python, "-c", "x = bytes(20 << 20)"),
        "kill": (*limits, "sleep", "1000"),
        "oom": (*limits, python, "-c", EATER),
        "timeout": (*limits, "--timeout", "1", "sleep", "1000"),
        "failure": (*limits, "/does/not/exist"),
    }[how]
    done = alice("run", "--name", how, *command)

    if how == "kill":
        alice("kill", how)

    job = alice("status", "-o", "json", how).json["id"]
    status = ended(alice, job)

    assert left_of([job]) == []

    if how == "failure":
        assert (done.code, status["state"]) == (127, "failed")
        return

    usage = status["usage"]
    assert usage["cpu_seconds"] is not None
    assert usage["memory_peak_bytes"] > 0
    assert (
        status["reason"]
        == {
            "exit": "exited",
            "kill": "killed",
            "oom": "oom",
            "timeout": "timeout",
        }[how]
    )
    assert status["exit_code"] == {"exit": 0, "timeout": 124}.get(how, 137)


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_run_and_kill_at_once(daemon: Daemon, certs: Certificates) -> None:
    """500 times started and killed at once: each job ends, and nobody else is hit."""
    alice = certs.of("alice")
    bystander = await asyncio.create_subprocess_exec("sleep", "1000")

    async with twctl.connect(
        daemon.address, ca=certs.ca, cert=alice.cert, key=alice.key
    ) as client:

        async def once() -> twctl.JobStatus:
            job = await client.run(["sleep", "1000"], mem=50)
            await job.kill()
            return await job.wait()

        statuses = []

        for _ in range(RUNS):
            statuses += await asyncio.gather(*(once() for _ in range(10)))

    assert bystander.returncode is None
    bystander.terminate()
    await bystander.wait()
    assert {(s.state, s.reason, s.exit_code) for s in statuses} == {
        ("stopped", "killed", 137)
    }
    assert left_of([status.id for status in statuses]) == []


@pytest.mark.v2
def test_strict(alice: Twctl, no_weights: None) -> None:
    """What cannot be applied is told, and with --strict-limits starts nothing."""
    done = alice("run", "--io", "30", "--mem", "50", "true")
    status = ended(alice, done.stdout.decode().strip())

    assert "twctl: warning: limit io is not applied: no disk has" in done.stderr
    assert status["limits"]["applied"] == {"mem": 50}
    assert status["limits"]["not_applied"].keys() == {"io"}

    refused = alice("run", "--io", "30", "--strict-limits", "true")

    assert refused.code == 125
    assert "limit io cannot be applied on this host: no disk has" in refused.error


@pytest.fixture
def no_weights() -> None:
    """A machine on which no disk has a scheduler that knows weights."""
    for file in Path("/sys/block").glob("*/queue/scheduler"):
        if "[bfq]" in file.read_text():
            pytest.skip(f"{file} is BFQ, which knows weights")
