"""What limits do to processes, on the control groups that this host has."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from teleworkerd.cgroups import CgroupDriver, JobCgroup, groupfs, open_driver
from teleworkerd.protocol.spec import Limits
from tests.cgroups.jobs import eventually, read_line, run_python, running


pytestmark = [pytest.mark.cgroup, pytest.mark.v2]

EATER: Final = "x = bytearray(200 << 20)"  # bytes that no limit here allows
CHILD: Final = f"""
import os
if os.fork() == 0:
    {EATER}
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
BURN: Final = 3.0  # seconds
TRIES: Final = 5
BOUND: Final = 100  # processes of a bomb
BURNER: Final = f"""
import time
end, begin = time.monotonic() + {BURN}, time.process_time()
while time.monotonic() < end: pass
print(time.process_time() - begin)
"""
# Burns in a window that is the same for all.
RIVAL: Final = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
begin, end = map(float, sys.argv[2:])
while time.monotonic() < begin: pass
used = time.process_time()
while time.monotonic() < end: pass
print(time.process_time() - used)
"""
FORKER: Final = """
import os, sys, time
made = 0
try:
    while made < 50:
        if os.fork() == 0:
            time.sleep(1000)
        made += 1
except OSError as error:
    print(made, error.strerror, flush=True)
"""
BOMB: Final = """
import os
os.write(1, b"lit\\n")
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
# Counts how often it comes round in each of some equal spans of time.
PACER: Final = """
import os, time
while True:
    end, rounds = time.monotonic() + 0.25, 0
    while time.monotonic() < end:
        rounds += 1
        os.getppid()
    print(rounds, flush=True)
"""
HERMIT: Final = """
import os, signal
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(1, b"lit\\n")
        signal.pause()
    os._exit(0)
signal.pause()
"""
DELEGATED: Final = """
import os, sys
from pathlib import Path
from teleworkerd.cgroups import open_driver
from teleworkerd.protocol.spec import Limits
mine = Path(sys.argv[1])
(mine / "cgroup.procs").write_text(str(os.getpid()))
driver = open_driver()
job = driver.create("job", Limits(mem=64, cpus=0.5), defaults=Limits(pids=9))
print(driver.reason, Path("/proc/self/cgroup").read_text().strip())
print(sorted(path.name for path in mine.iterdir() if path.is_dir()))
print(sorted(path.name for path in (mine / "teleworker").iterdir() if path.is_dir()))
print(job.applied.as_dict(), job.remove())
driver.close()
"""
STOPPED: Final = """
import os, signal
os.write(1, b"lit\\n")
os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_memory_of_one(host: CgroupDriver, job_id: str) -> None:
    """Who takes more than the limit is killed, which is counted."""
    job = host.create(job_id, Limits(mem=50))

    with running(job, *run_python(EATER)) as process:
        assert process.wait(60) == -9
        usage = job.usage()

    assert usage.oom_kills is not None
    assert usage.oom_kills >= 1
    assert usage.memory_peak_bytes is None or 0 < usage.memory_peak_bytes <= 50 << 20


def test_memory_of_a_child(host: CgroupDriver, job_id: str) -> None:
    """A child that takes too much is killed: alone on version 1, with all on 2."""
    job = host.create(job_id, Limits(mem=50))

    with running(job, *run_python(CHILD)) as process:
        output, _ = process.communicate(timeout=60)
        usage = job.usage()

    if host.name == "v1":
        assert (process.returncode, output) == (0, b"-9\n")
    else:
        assert process.returncode == -9

    assert (usage.oom_kills or 0) >= 1


def test_cpu_10_against_90(host: CgroupDriver, job_id: str) -> None:
    """On one processor, two jobs get time by their shares, as 1 to 9."""
    core = str(max(os.sched_getaffinity(0)))
    begin = time.monotonic() + 2.0
    window = (core, repr(begin), repr(begin + BURN))
    light = host.create(job_id, Limits(cpu=10))
    heavy = host.create(f"{job_id}-90", Limits(cpu=90))

    with (
        running(light, *run_python(RIVAL, *window)) as first,
        running(heavy, *run_python(RIVAL, *window)) as second,
    ):
        little, much = (float(job.communicate()[0]) for job in (first, second))

    assert 9 * 0.8 < much / little < 9 * 1.2, (little, much)


def test_cap_of_cpu(host: CgroupDriver, job_id: str) -> None:
    """Half a processor is that, though more is free."""
    shares: list[float] = []

    # Other tests run beside this one, and may leave less than half.
    while not shares or (max(shares) <= 0.9 and len(shares) < TRIES):
        job = host.create(job_id, Limits(cpus=0.5))

        with running(job, *run_python(BURNER)) as process:
            shares.append(float(process.communicate()[0]) / (BURN / 2))

    assert 0.9 < max(shares) < 1.1, shares


def test_bound_of_processes(host: CgroupDriver, job_id: str) -> None:
    """There are no more processes than the bound; the next fork fails."""
    job = host.create(job_id, Limits(), defaults=Limits(pids=9))

    with running(job, *run_python(FORKER)) as process:
        assert read_line(process) == b"8 Resource temporarily unavailable\n"

    assert job.applied == Limits(pids=9)


def test_all_limits_together(host: CgroupDriver, job_id: str) -> None:
    """All limits can be asked for at once, and are gone with the job."""
    limits = Limits(mem=64, cpu=50, io=50, cpus=1.5, pids=20)
    job = host.create(job_id, limits)

    with running(job, *run_python("print(1)")) as process:
        assert process.communicate()[0] == b"1\n"

    assert {*job.applied.as_dict(), *job.not_applied} == set(limits.as_dict())
    assert host.leftover(job_id) is None


def test_use_of_a_running_job(host: CgroupDriver, job_id: str) -> None:
    """A job that runs says what it uses now."""
    job = host.create(job_id, Limits(mem=64))
    program = "x = b'x' * (20 << 20); print(1, flush=True); import time; time.sleep(99)"

    with running(job, *run_python(program)) as process:
        read_line(process)
        usage = job.usage()

    assert usage.processes == 1
    assert 20 << 20 <= (usage.memory_bytes or 0) <= 64 << 20
    assert (usage.cpu_seconds or 0) > 0


@pytest.mark.parametrize(
    "program", [BOMB, HERMIT, STOPPED], ids=["bomb", "hermit", "stopped"]
)
def test_kill(host: CgroupDriver, job_id: str, program: str) -> None:
    """Whoever forks on, ignores signals, leaves its session or is stopped is gone."""
    job = host.create(job_id, Limits(cpus=0.5), defaults=Limits(pids=64))

    with running(job, *run_python(program)) as process:
        assert read_line(process) == b"lit\n"
        begin = time.monotonic()

        while job.pids():
            job.kill()

        # It takes a few milliseconds where nothing is emulated.
        assert time.monotonic() - begin < 2

    assert host.leftover(job_id) is None


def test_kill_of_who_always_forks(host: CgroupDriver, job_id: str) -> None:
    """A shell that forks all the time is killed, and does not exit by itself."""
    for number in range(30):
        job = host.create(f"{job_id}-{number}", Limits(cpus=1), defaults=Limits(pids=9))
        loop = "echo lit; while :; do /bin/true; done"

        with running(job, "sh", "-c", loop) as process:
            read_line(process)
            job.kill()
            assert process.wait(60) == -9


def test_fork_bomb_beside_others(host: CgroupDriver, job_id: str) -> None:
    """With a bound on processes a fork bomb leaves others their pace."""
    other = host.create(job_id, Limits(cpu=100))
    bomb = host.create(f"{job_id}-bomb", Limits(cpu=1), defaults=Limits(pids=BOUND))

    with running(other, *run_python(PACER)) as pacer:
        before = pace(pacer)

        with running(bomb, *run_python(BOMB)):
            eventually(lambda: len(bomb.pids()) == BOUND, what="the bomb")
            after = pace(pacer)

    assert after > before / 4, (before, after)
    assert host.leftover(f"{job_id}-bomb") is None


def pace(pacer: "subprocess.Popen[bytes]") -> int:
    """Return how often *pacer* comes round in a span of time, as a rule."""
    return sorted(int(read_line(pacer)) for _ in range(6))[3]


def test_delegated_group(job_id: str) -> None:
    """Alone in a group of its own, a daemon makes room there for its jobs."""
    root = Path("/sys/fs/cgroup")

    if not (root / "cgroup.subtree_control").exists():
        pytest.skip("version 2 has no controllers here")

    for controller in ("cpu", "io", "memory", "pids"):
        (root / "cgroup.subtree_control").write_text(f"+{controller}")

    mine = root / f"service-{job_id}"
    mine.mkdir()

    try:
        done = subprocess.run(
            [sys.executable, "-c", DELEGATED, str(mine)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        assert done.stdout.splitlines() == [
            f"None 0::/{mine.name}/daemon",
            "['daemon', 'teleworker']",
            "['job']",
            "{'mem': 64, 'cpus': 0.5, 'pids': 9} True",
        ]
    finally:
        eventually(lambda: groupfs.remove(mine), what="the group is gone")


def test_kill_of_nested_groups(host: CgroupDriver, job_id: str) -> None:
    """Processes in groups below that of the job, frozen ones too, are gone."""
    job = host.create(job_id, Limits(mem=64))

    with running(job, *run_python(HERMIT)) as process:
        read_line(process)
        nest(job, process.pid)

        eventually(lambda: killed(job), what="all are dead")


def test_what_an_earlier_daemon_left(host: CgroupDriver, job_id: str) -> None:
    """The groups of a job are found again, and what is in them can be killed."""
    job = host.create(job_id, Limits(mem=64), defaults=Limits(pids=20))

    with running(job, *run_python(HERMIT)) as process:
        read_line(process)
        again = open_driver()
        assert job_id in again.leftovers()
        left = again.leftover(job_id)
        assert left is not None
        assert left.pids() == job.pids()
        eventually(lambda: killed(left), what="all are dead")

    assert host.leftover(job_id) is None


def killed(job: JobCgroup) -> bool:
    """Kill once more; return whether nobody is left."""
    job.kill()
    return not job.pids()


def nest(job: JobCgroup, pid: int) -> None:
    """Move *pid*, of *job*, into a group below the job's, and freeze that."""
    root = Path("/sys/fs/cgroup")

    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        number, _, path = line.split(":", 2)

        if number == "0":
            hierarchy = root if (root / "cgroup.procs").exists() else root / "unified"
            group = hierarchy / path.lstrip("/") / "below" / "deeper"
            group.mkdir(parents=True)
            (group / "cgroup.procs").write_text(str(pid))
            (group.parent / "cgroup.freeze").write_text("1")
            assert pid in job.pids()
