"""Jobs end when they are told to, and nothing that they started is left."""

import re
import time
from typing import Any

from tests.e2e.commandline import Twctl, seconds_since
from tests.e2e.groups import CONTROLLERS, group, left_of
from tests.e2e.processes import Process, process, wait_until_gone
from tests.e2e.waiting import wait_for


FOREVER = "while :; do sleep 0.1; done"

# A child of a child that has left session, process group and parent behind.
FAMILY = """\
import os, sys, time
print("python", os.getpid(), flush=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print("orphan", os.getpid(), flush=True)
        time.sleep(1000)
    os._exit(0)
os.wait()
time.sleep(1000)
"""


def ends(status: dict[str, Any]) -> tuple[str, int, str]:
    """Return how a job ended, for comparison."""
    return status["state"], status["exit_code"], status["reason"]


def start_family(alice: Twctl, python: str, *options: str) -> tuple[str, set[Process]]:
    """Start sh → python → a daemon of its own making; return job and processes."""
    script = f"echo sh $$; {python} -c '{FAMILY}' & wait"
    job = alice.shell(script, *options)

    with alice.start("tail", "-f", job) as reader:
        text = reader.until_lines(3)

    pids = [int(pid) for pid in re.findall(rb"\d+", text)]
    return job, {process(pid) for pid in pids}


def test_kill_ends_the_whole_tree(alice: Twctl, python: str) -> None:
    """A child that has daemonised itself ends with the job, at once."""
    job, family = start_family(alice, python)

    done = alice("kill", job)

    assert (done.code, done.stderr) == (0, "")
    assert ends(alice.ended(job)) == ("stopped", 137, "killed")
    wait_until_gone(family)


def test_kill_removes_the_groups(alice: Twctl, python: str) -> None:
    """The job's directories are gone from all controllers after its end."""
    job, family = start_family(alice, python, "--mem", "200")
    directories = [group(controller, job) for controller in CONTROLLERS]
    assert all(directory.is_dir() for directory in directories)

    alice("kill", job)

    alice.ended(job)
    wait_for(lambda: not left_of([job]), what="removal of the groups")
    wait_until_gone(family)


def test_exit_code_of_a_killed_job(alice: Twctl) -> None:
    """`wait` and `status --exit-code` give 137."""
    job = alice.run("sleep", "1000")

    assert alice("kill", job).code == 0

    waited = alice("wait", job)
    assert (waited.code, waited.stdout) == (137, b"137\n")
    assert alice("status", "--exit-code", job).code == 137


def test_kill_several(alice: Twctl) -> None:
    """Several jobs are ended by one call."""
    jobs = [alice.run("sleep", "1000") for _ in range(2)]

    assert alice("kill", *jobs).code == 0

    waited = alice("wait", *jobs)
    assert (waited.code, waited.stdout) == (137, b"137\n137\n")


def test_kill_of_an_ended_job(alice: Twctl) -> None:
    """Killing what has ended is no failure: a notice, and exit 0."""
    job = alice.run("true")
    alice.ended(job)

    done = alice("kill", job)

    assert (done.code, done.stdout) == (0, b"")
    assert len(done.stderr.splitlines()) == 1
    assert "error" not in done.stderr
    assert ends(alice.status(job)) == ("finished", 0, "exited")


def test_other_signal_reaches_the_main_process_only(alice: Twctl) -> None:
    """`kill -s USR1` leaves alone the children, which would die of it."""
    job = alice.shell(
        "sleep 1000 & child=$!;"
        "trap 'kill -0 $child && echo child lives' USR1;"
        f"echo ready; {FOREVER}"
    )
    alice.until_printed(job, b"ready\n")

    for count in (1, 2):  # what the first one did to the child shows at the second
        assert alice("kill", "-s", "USR1", job).code == 0
        alice.until_printed(job, b"ready\n" + count * b"child lives\n")

    assert alice.status(job)["state"] == "running"
    alice("kill", job)


def test_signal_can_go_to_the_whole_tree(alice: Twctl) -> None:
    """`kill -s USR1 --tree` reaches every process of the job."""
    job = alice.shell(
        "trap 'echo parent' USR1;"
        "(trap 'echo child' USR1; echo ready; while :; do sleep 0.1; done) &"
        "while :; do wait; done"
    )
    alice.until_printed(job, b"ready\n")

    with alice.start("tail", "-f", job) as reader:
        assert alice("kill", "-s", "USR1", "--tree", job).code == 0

        reader.until(b"parent\n")
        reader.until(b"child\n")

    alice("kill", job)


def test_stop_lets_a_trap_finish(alice: Twctl) -> None:
    """SIGTERM comes first, and what the job still says is in its output."""
    job = alice.shell(f"trap 'sleep 0.3; echo bye; exit 7' TERM; echo up; {FOREVER}")
    alice.until_printed(job, b"up\n")

    done = alice("stop", job)

    assert (done.code, done.stderr) == (0, "")
    status = alice.ended(job)
    assert (status["state"], status["exit_code"]) == ("stopped", 7)
    assert alice.output(job) == "up\nbye\n"


def test_stop_kills_after_the_grace(alice: Twctl) -> None:
    """A job that ignores SIGTERM is killed when its grace is over."""
    job = alice.shell(f"trap '' TERM; echo up; {FOREVER}")
    alice.until_printed(job, b"up\n")
    begin = time.monotonic()

    assert alice("stop", "-t", "1", job).code == 0

    assert ends(alice.ended(job)) == ("stopped", 137, "killed")
    assert 1.0 <= seconds_since(begin) < 8.0


def test_what_is_left_behind_is_ended(alice: Twctl) -> None:
    """When the main process has exited, its background children end too."""
    job = alice.shell(
        "trap 'exit 0' USR1; sleep 1000 & echo $!; while :; do sleep 0.05; done"
    )
    child = process(int(alice.until_printed(job, b"\n")))
    alice("kill", "-s", "USR1", job)

    assert ends(alice.ended(job)) == ("finished", 0, "exited")
    wait_until_gone({child})
    assert alice.output(job) == f"{child.pid}\n"


def test_timeout(alice: Twctl) -> None:
    """A job that outlives its --timeout is ended, with code 124."""
    done = alice("run", "-f", "--timeout", "1s", "sh", "-c", "echo $$; exec sleep 1000")

    assert done.code == 124
    assert done.stdout.strip().isdigit()
    job = alice("list", "-a", "-q", "--limit", "1").stdout.decode().strip()
    status = alice.status(job)
    assert (status["exit_code"], status["reason"]) == (124, "timeout")


def test_unknown_signal(alice: Twctl) -> None:
    """A signal that does not exist is a usage error."""
    job = alice.run("sleep", "1000")

    done = alice("kill", "-s", "NOPE", job)

    assert done.code == 2
    assert "NOPE" in done.error
    assert alice.status(job)["state"] == "running"
    alice("kill", job)
