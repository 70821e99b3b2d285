"""`twctl top` and the ceilings, as a person meets them."""

import json
import os
import pty
import select
import signal
import time

from tests.e2e.commandline import MODULE, Twctl
from tests.e2e.daemon import StartDaemon
from tests.e2e.pki import Certificates
from tests.e2e.waiting import wait_for


def test_snapshot(alice: Twctl) -> None:
    """`top -n 1` prints a table of the jobs that run, with rates, and ends."""
    job = alice.run("--mem", "64", "--name", "sleeper", "sleep", "1000")

    done = alice("top", "-n", "1")
    alice("kill", job)
    head, *lines = done.stdout.decode().splitlines()

    assert (done.code, done.stderr) == (0, "")
    assert head.split()[:5] == ["ID", "NAME", "CPU", "MEM", "PIDS"]
    [line] = [line for line in lines if job[:12] in line]
    assert "sleeper" in line
    assert "/64.0 MiB" in line
    assert "1/4096" in line
    assert "0%" in line


def test_nothing_runs(bob: Twctl) -> None:
    """Without jobs it says so."""
    assert bob("top", "-n", "1").stdout == b"no job runs\n"


def test_json(alice: Twctl) -> None:
    """With -o json each sample is an object on a line."""
    job = alice.run("sleep", "1000")

    done = alice("top", "-n", "2", "-i", "200ms", "-o", "json", job)
    alice("kill", job)
    samples = [json.loads(line) for line in done.stdout.splitlines()]

    assert [sample["schema"] for sample in samples] == [1, 1]
    assert [[each["id"] for each in s["jobs"]] for s in samples] == [[job], [job]]
    assert samples[0]["jobs"][0]["cpu_percent"] is not None
    assert samples[0]["jobs"][0]["usage"]["processes"] == 1


def test_ends_with_the_jobs_named(alice: Twctl) -> None:
    """It ends when all jobs that were named have ended; they are shown once more."""
    job = alice.run("sleep", "1")

    done = alice("top", "-i", "200ms", "-o", "json", job)
    last = json.loads(done.stdout.splitlines()[-1])

    assert done.code == 0
    assert last["jobs"][0]["state"] == "finished"


def test_unknown_job(alice: Twctl) -> None:
    """A job that is not there is an error in one line."""
    assert "0123" in alice("top", "-n", "1", "0123abcd").error


def test_interrupted(alice: Twctl) -> None:
    """Ctrl-C ends it with 130, and no more is said."""
    job = alice.run("sleep", "1000")

    with alice.start("top", "-o", "json", "-i", "100ms") as running:
        running.until_lines(1)
        running.interrupt()
        done = running.finish()

    alice("kill", job)
    assert (done.code, done.stderr) == (130, "")


def test_on_a_terminal(alice: Twctl) -> None:
    """On a terminal a table is drawn and drawn again, until q; all is put back."""
    job = alice.run("--mem", "64", "--name", "sleeper", "sleep", "1000")
    pid, terminal = pty.fork()

    if pid == 0:
        command = [*MODULE, "top", "-i", "100ms"]
        environment = {**alice.environment, "TERM": "xterm", "COLUMNS": "140"}
        os.execvpe(command[0], command, environment)

    seen = b""
    end = time.monotonic() + 20

    while seen.count(b"sleeper") < 3:
        assert time.monotonic() < end, seen
        seen += read(terminal)

    os.write(terminal, b"q")
    status = wait_for(lambda: ended(pid, terminal), what="the end")
    alice("kill", job)

    assert status == "0"
    assert b"1 running" in seen
    assert b"\x1b[?1049h" in seen


def read(terminal: int) -> bytes:
    """Return what *terminal* shows next, nothing after a while."""
    if not select.select([terminal], [], [], 0.1)[0]:
        return b""

    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # its other end is closed
        return b""


def ended(pid: int, terminal: int) -> str | None:
    """Return the exit status of *pid* as text, once it has ended."""
    read(terminal)
    found, status = os.waitpid(pid, os.WNOHANG)
    return None if found == 0 else str(os.waitstatus_to_exitcode(status))


def test_ceilings(start_daemon: StartDaemon, certs: Certificates) -> None:
    """Who asks for too much is told of the ceiling; `info` shows all of them."""
    daemon = start_daemon(
        config="[limits]\nmem = 64\njob_mem = 100\nowner_mem = 150\n"
        "timeout = 30.0\njob_timeout = 60.0\n"
    )
    alice, bob = (Twctl(daemon, certs.of(name)) for name in ("alice", "bob"))

    beyond = alice("run", "--mem", "101", "true")
    assert beyond.code == 125
    assert "[limits] job_mem" in beyond.error
    assert "[limits] job_timeout" in alice("run", "--timeout", "61", "true").error

    job = alice.run("--mem", "90", "sleep", "1000")
    crowded = alice("run", "true")
    status = alice("status", "-o", "json", job).json
    alice.run("--mem", "60", "true")
    bob.run("--mem", "100", "true")
    alice("kill", "-s", str(int(signal.SIGKILL)), job)
    alice.ended(job)

    assert "[limits] owner_mem" not in alice("run", "true").stderr
    assert crowded.code == 125
    assert "90 MB of it are taken" in crowded.error
    assert status["default_limits"] == {"pids": 4096}
    info = alice("info", "-o", "json").json
    assert info["defaults"] == {"mem": 64, "pids": 4096, "timeout": 30}
    assert info["ceilings"] == {"job_mem": 100, "owner_mem": 150, "job_timeout": 60}
    text = (daemon.place.state / "audit.jsonl").read_text()
    refused = [
        line for line in map(json.loads, text.splitlines()) if line["event"] == "run"
    ]
    assert {line["result"] for line in refused} == {"limit_rejected", "too_many"}
