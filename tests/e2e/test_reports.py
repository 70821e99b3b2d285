"""What `status`, `list`, `wait` and `info` say, as scripts read it."""

import re
import time
from collections.abc import Sequence
from typing import Any

import pytest

from tests.e2e.commandline import MODULE, SCRIPT, Twctl, seconds_since
from tests.e2e.daemon import UUID, Daemon
from tests.e2e.pki import Certificates, issue


TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")
KEYS = {
    *("schema", "id", "owner", "name", "labels", "command", "state", "exit_code"),
    *("signal", "reason", "error", "created_at", "started_at", "ended_at", "user"),
    *("limits", "usage", "output"),
}
USAGE = {
    *("cpu_seconds", "memory_peak_bytes", "io_read_bytes", "io_write_bytes"),
    *("processes", "oom_kills"),
}


def some(status: dict[str, Any], *names: str) -> list[Any]:
    """Return a few values of a status."""
    return [status[name] for name in names]


@pytest.mark.parametrize("program", [MODULE, SCRIPT], ids=["module", "script"])
def test_run_prints_the_id(
    daemon: Daemon, certs: Certificates, program: Sequence[str]
) -> None:
    """`run` prints exactly the ID and a newline."""
    done = Twctl(daemon, certs.of("alice"), program=program)("run", "true")

    assert (done.code, done.stderr) == (0, "")
    assert UUID.fullmatch(done.stdout.decode().removesuffix("\n"))
    assert done.stdout.endswith(b"\n")


def test_run_as_json(alice: Twctl) -> None:
    """`run -o json` prints an object with the ID."""
    done = alice("run", "-o", "json", "true")

    assert UUID.fullmatch(done.json["id"])


def test_status_of_a_running_job(alice: Twctl) -> None:
    """A running job has all the keys, and null where nothing is known yet."""
    job = alice.shell(
        "echo hello; exec sleep 1000", "--name", "runner", "-l", "k=v", "-l", "z="
    )
    alice.until_printed(job, b"hello\n")

    status = alice.status(job)

    assert set(status) >= KEYS
    assert some(status, "schema", "id", "owner", "name") == [1, job, "alice", "runner"]
    assert status["labels"] == {"k": "v", "z": ""}
    assert status["command"] == ["sh", "-c", "echo hello; exec sleep 1000"]
    assert some(status, "state", "user") == ["running", "nobody"]
    assert some(status, "exit_code", "signal", "reason", "error", "ended_at") == (
        [None] * 5
    )
    assert status["output"] == {
        "stdout": {"bytes": 6, "first_offset": 0, "sha256": None, "dropped": 0},
        "stderr": {"bytes": 0, "first_offset": 0, "sha256": None, "dropped": 0},
    }
    assert set(status["usage"]) >= USAGE
    alice("kill", job)


def test_status_of_an_ended_job(alice: Twctl) -> None:
    """An ended job has its code, its reason and its times."""
    job = alice.shell("exit 5")

    status = alice.ended(job)

    assert some(status, "state", "exit_code", "signal", "reason", "error") == [
        *("finished", 5, None, "exited", None)
    ]
    times = some(status, "created_at", "started_at", "ended_at")
    assert all(TIME.fullmatch(each) for each in times), times
    assert times == sorted(times)
    assert status["limits"] == {
        "requested": {"mem": None, "cpu": None, "io": None},
        "applied": {},
        "not_applied": {},
    }


def test_sizes_of_an_ended_job(alice: Twctl) -> None:
    """How much an ended job wrote to each stream is known, also when nothing."""
    output = alice.ended(alice.run("printf", "abc"))["output"]

    assert {name: stream["bytes"] for name, stream in output.items()} == {
        "stdout": 3,
        "stderr": 0,
    }


def test_status_of_a_signaled_job(alice: Twctl) -> None:
    """A job that a signal of its own ended says which: 128 + n."""
    status = alice.ended(alice.shell("kill -SEGV $$"))

    assert some(status, "state", "exit_code", "signal", "reason") == [
        *("finished", 139, 11, "signaled")
    ]


def test_status_exits_with_0(alice: Twctl) -> None:
    """`status` says that the job exists; with --exit-code, how it ended."""
    job = alice.shell("exit 5")
    alice.ended(job)

    assert alice("status", job).code == 0
    assert alice("status", "--exit-code", job).code == 5


def test_status_for_people(alice: Twctl) -> None:
    """The text has the ID, the state and the limits."""
    job = alice.run("--mem", "77", "true")
    alice.ended(job)

    text = alice("status", job).stdout.decode()

    assert all(part in text for part in (job, "finished", "77"))


def test_usage_of_an_ended_job(alice: Twctl, python: str) -> None:
    """What a job with limits has really used is kept."""
    job = alice.run("--mem", "300", python, "-c", "len(b'x' * (60 << 20))")

    usage = alice.ended(job)["usage"]

    assert usage["cpu_seconds"] > 0.01
    assert usage["memory_peak_bytes"] >= 60 << 20
    assert usage["oom_kills"] == 0


def test_command_that_is_not_utf8(alice: Twctl) -> None:
    """Bytes that are not UTF-8 reach the job, and JSON as surrogates."""
    word = b"\xff\xfe".decode(errors="surrogateescape")
    job = alice.run("printf", "%s", word)

    assert alice("tail", "-f", job).stdout == b"\xff\xfe"
    assert alice.status(job)["command"] == ["printf", "%s", word]


def test_environment_of_a_job(alice: Twctl) -> None:
    """A job gets a clean environment and what -e adds; `-e K` copies."""
    twctl = Twctl(
        alice.daemon,
        alice.daemon.certs.of("alice"),
        environment={"COPIED": "from here"},
    )
    job = twctl.run("-e", "A=b=c", "-e", "COPIED", "env")

    lines = set(twctl.output(job).splitlines())

    assert {"A=b=c", "COPIED=from here", "USER=nobody"} <= lines
    assert not [line for line in lines if line.startswith(("TWCTL_", "TELEWORKERD_"))]


def test_working_directory(alice: Twctl) -> None:
    """-w is where the job starts."""
    assert alice.output(alice.run("-w", "/usr/share", "pwd")) == "/usr/share\n"


@pytest.fixture(scope="module")
def carol(
    daemon: Daemon,
    certs: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> Twctl:
    """Somebody whose jobs nobody else's test adds to."""
    into = tmp_path_factory.mktemp("carol")
    return Twctl(daemon, issue(certs, "/CN=carol", into=into))


@pytest.fixture(scope="module")
def jobs(carol: Twctl) -> dict[str, str]:
    """One ended, one stopped and two running jobs, in the order of their start."""
    jobs = {
        "ended": carol.run("--name", "ended", "-l", "kind=short", "true"),
        "stopped": carol.run("-l", "kind=long", "sleep", "1000"),
        "one": carol.run("--name", "one", "-l", "kind=long", "sleep", "1000"),
        "two": carol.run("--name", "two", "sleep", "1000"),
    }
    carol("kill", jobs["stopped"])
    carol("wait", jobs["ended"], jobs["stopped"])
    return jobs


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), ["two", "one"]),
        (("-a",), ["two", "one", "stopped", "ended"]),
        (("-a", "--limit", "3"), ["two", "one", "stopped"]),
        (("-a", "--filter", "state=stopped"), ["stopped"]),
        (("-a", "--filter", "state=finished"), ["ended"]),
        (("-a", "--filter", "label=kind=long"), ["one", "stopped"]),
        (("-a", "--filter", "name=two"), ["two"]),
        (
            ("--filter", "label=kind=long", "--filter", "state=running"),
            ["one"],
        ),
    ],
    ids=str,
)
def test_list(
    carol: Twctl,
    jobs: dict[str, str],
    arguments: tuple[str, ...],
    expected: list[str],
) -> None:
    """The newest come first; -a adds the ended, filters take away."""
    listed = carol("list", "-q", *arguments).stdout.decode().splitlines()

    assert listed == [jobs[name] for name in expected]


def test_list_as_json(carol: Twctl, jobs: dict[str, str]) -> None:
    """JSON is one array of the objects that `status` prints."""
    listed = carol("list", "-a", "-o", "json").json

    assert [status["id"] for status in listed] == [*reversed(jobs.values())]
    assert listed[-1] == carol.status(jobs["ended"])


def test_list_for_people(carol: Twctl, jobs: dict[str, str]) -> None:
    """The text has a line for each job, and `ps` is the same verb."""
    text = carol("list").stdout.decode()

    assert all(jobs[name][:8] in text for name in ("one", "two"))
    assert len(carol("ps").stdout.splitlines()) == len(text.splitlines())


def test_bad_filter(alice: Twctl) -> None:
    """A filter that means nothing is a usage error."""
    done = alice("list", "--filter", "colour=red")

    assert done.code == 2
    assert "colour" in done.error


def test_wait_for_several(alice: Twctl) -> None:
    """`wait` prints one code per line, in order, and exits with the highest."""
    jobs = [alice.shell(f"exit {code}") for code in (3, 9, 0)]

    done = alice("wait", *jobs)

    assert (done.code, done.stdout, done.stderr) == (9, b"3\n9\n0\n", "")


def test_wait_until_the_end(daemon: Daemon, alice: Twctl) -> None:
    """`wait` returns when the job ends, not before."""
    gate = daemon.gate()
    job = alice.shell(f"{gate.wait}; exit 6")

    with alice.start("wait", job) as waiting:
        assert alice.status(job)["state"] == "running"
        assert waiting.process.poll() is None
        gate.open()

        assert waiting.finish().code == 6


def test_wait_with_a_timeout(alice: Twctl) -> None:
    """`wait --timeout` gives up with 124 and leaves the job alone."""
    job = alice.run("sleep", "1000")
    begin = time.monotonic()

    done = alice("wait", "--timeout", "0.5s", job)

    assert done.code == 124
    assert 0.5 <= seconds_since(begin) < 10
    assert alice.status(job)["state"] == "running"
    alice("kill", job)


def test_info(alice: Twctl) -> None:
    """`info` says who the server is and whom it sees."""
    found = alice("info", "-o", "json").json
    text = alice("info").stdout.decode()

    assert "alice" in found.values()
    assert "alice" in text
    assert re.search(r"\d+\.\d+\.\d+", text)
