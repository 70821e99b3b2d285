"""`run` and `tail`, called in this process against a fake server in a thread."""

import os

import pytest

from teleworkerd.protocol.errors import LaunchFailed, LimitRejected, Unavailable
from teleworkerd.protocol.messages import (
    OutputRequest,
    RunRequest,
)
from teleworkerd.protocol.types import Stream
from tests.twctl.calling import RUNNING, Capture, asked, error_of
from tests.twctl.fake import FakeServer
from tests.twctl.fake_output import JOB_ID, FakeJob, make_status
from twctl.cli import main


pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(20)]


@pytest.fixture(autouse=True)
def job(server: FakeServer) -> FakeJob:
    """A job that has ended well."""
    server.jobs[JOB_ID] = FakeJob(
        output={Stream.STDOUT: b"out\n", Stream.STDERR: b"err\n"}
    )
    return server.jobs[JOB_ID]


def test_run_prints_the_id(capsys: Capture) -> None:
    """Exactly the ID and a newline go to stdout."""
    assert main(["run", "true"]) == 0
    assert capsys.readouterr() == (f"{JOB_ID}\n", "")


def test_first_positional_ends_the_options(server: FakeServer) -> None:
    """What follows the command is the command's own, `--` or not."""
    main(["run", "--mem", "64", "ls", "-l", "--mem", "x"])
    main(["run", "--", "-odd", "--", "x"])

    commands = [spec.command for spec in server.started.values()]
    assert commands == [(b"ls", b"-l", b"--mem", b"x"), (b"-odd", b"--", b"x")]


def test_options_of_run(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is asked for gets into the spec."""
    monkeypatch.setitem(os.environb, b"COPIED", b"\xff")

    main(
        [
            *("run", "--mem", "2g", "--cpu", "5", "--io", "6", "--timeout", "1h30m"),
            *("--name", "n", "-l", "a=b", "--label", "c=", "-e", "A=1", "-e", "COPIED"),
            *("--merge", "--output-limit", "10k", "--on-full", "drop"),
            *("-w", "/tmp", "--request-id", "mine", "printf", "\udcff"),
        ]
    )

    spec = server.started["mine"]
    assert spec.limits.as_dict() == {"mem": 2048, "cpu": 5, "io": 6}
    assert (spec.timeout, spec.name, spec.workdir) == (5400, "n", b"/tmp")
    assert spec.labels == {"a": "b", "c": ""}
    assert spec.env == {b"A": b"1", b"COPIED": b"\xff"}
    assert (spec.merge, spec.output_limit, spec.on_full) == (True, 10_240, "drop")
    assert spec.command == (b"printf", b"\xff")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["--bogus", "true"], "--bogus"),
        (["--mem"], "--mem"),
        (["--mem", "x", "true"], "'x' is not a size"),
        (["--mem", "0", "true"], "mem = 0 is out of range"),
        (["--cpu", "101", "true"], "cpu = 101 is out of range"),
        (["--cpu", "half", "true"], "'half' is not a share; write a number from 1"),
        (["--timeout", "soon", "true"], "'soon' is not a duration"),
        (["-l", "x", "true"], "'x' is not K=V"),
        (["-e", "=v", "true"], "--env"),
        (["-w", "relative", "true"], "not absolute"),
        (["--output-limit", "much", "true"], "'much' is not a size"),
        (["--on-full", "explode", "true"], "'explode' is not block, drop, kill"),
        ([""], "the command is empty"),
    ],
)
def test_bad_flags_of_run(
    server: FakeServer, capsys: Capture, arguments: list[str], words: str
) -> None:
    """Bad flags of `run` are 125, one line, and nothing is sent."""
    assert main(["run", *arguments]) == 125
    assert words in error_of(capsys)
    assert not server.connections


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LaunchFailed("no ls", {"stage": "exec", "errno": 2, "job": JOB_ID}), 127),
        (LaunchFailed("no", {"stage": "exec", "errno": 13, "job": JOB_ID}), 126),
        (LaunchFailed("no", {"stage": "cwd", "errno": 2, "job": JOB_ID}), 126),
        (LimitRejected("no cgroups"), 125),
        (Unavailable("full"), 125),
    ],
)
@pytest.mark.parametrize("follow", [[], ["-f"]])
def test_refused_run(
    server: FakeServer,
    capsys: Capture,
    follow: list[str],
    error: LaunchFailed,
    code: int,
) -> None:
    """The code of a run that was refused says why, followed or not."""
    server.errors[RunRequest] = error

    assert main(["run", *follow, "ls"]) == code
    assert error.message in error_of(capsys)


def test_moved_code(
    server: FakeServer, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TWCTL_EXIT_ERROR moves 125, and nothing else."""
    monkeypatch.setenv("TWCTL_EXIT_ERROR", "99")
    server.errors[RunRequest] = LimitRejected("no cgroups")

    assert main(["run", "ls"]) == 99
    assert main(["run", "--bogus"]) == 99
    assert main(["status", "nope"]) == 1


def test_run_followed(
    server: FakeServer, job: FakeJob, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Both streams go to the matching descriptors; the code is the job's."""
    job.status = make_status(exit_code=3)

    assert main(["run", "-f", "ls"]) == 3
    assert capfdbinary.readouterr() == (b"out\n", b"err\n")


@pytest.mark.parametrize(
    ("options", "out", "err"),
    [
        ([], b"out\n", b""),
        (["-f"], b"out\n", b""),
        (["--err"], b"err\n", b""),
        (["--all", "-f"], b"out\n", b"err\n"),
        (["--from-offset", "2"], b"t\n", b""),
    ],
)
def test_tail(
    capfdbinary: pytest.CaptureFixture[bytes],
    options: list[str],
    out: bytes,
    err: bytes,
) -> None:
    """`tail` copies bytes, and takes its options on both sides of the job."""
    assert main(["tail", JOB_ID, *options]) == 0
    assert main(["tail", *options, JOB_ID]) == 0
    assert capfdbinary.readouterr() == (out * 2, err * 2)


def test_tail_of_a_running_job(
    server: FakeServer, job: FakeJob, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Without -f it ends at the present; then there is no code to give."""
    job.status = RUNNING

    assert main(["tail", JOB_ID]) == 0
    assert main(["tail", "--exit-code", JOB_ID]) == 1
    assert capfdbinary.readouterr().out == b"out\n" * 2


def test_tail_with_the_code(server: FakeServer, job: FakeJob) -> None:
    """With --exit-code the job's code is ours."""
    job.status = make_status(exit_code=7)

    assert main(["tail", "-f", JOB_ID]) == 0
    assert main(["tail", "-f", "--exit-code", JOB_ID]) == 7


def test_tail_without_reconnecting(
    server: FakeServer, job: FakeJob, capsys: Capture
) -> None:
    """--no-reconnect makes a lost connection a failure."""
    server.cuts = [200]
    job.output = {Stream.STDOUT: bytes(1000)}

    assert main(["tail", "--no-reconnect", JOB_ID]) == 125
    assert "the connection was lost" in capsys.readouterr().err


@pytest.mark.parametrize("follow", [[], ["-f"]])
def test_run_without_reconnecting(
    server: FakeServer, capsys: Capture, follow: list[str]
) -> None:
    """--no-reconnect makes the loss of the first response a failure."""
    server.cuts = [150]

    assert main(["run", "--no-reconnect", *follow, "true"]) == 125
    assert "the connection was lost" in error_of(capsys)
    assert server.connections == 1


def test_lost_answer_of_a_detached_start(server: FakeServer, capsys: Capture) -> None:
    """A start is asked for again under the same id, and prints one ID."""
    server.cuts = [130]

    assert main(["run", "true"]) == 0
    assert capsys.readouterr().out == f"{JOB_ID}\n"
    assert len(server.started) == 1
    assert server.connections == 2


def test_offsets_are_asked_for(server: FakeServer) -> None:
    """`--from-offset` is the server's offset, not something skipped here."""
    main(["tail", "--from-offset", "3", JOB_ID])

    (request,) = asked(server, OutputRequest)
    assert isinstance(request, OutputRequest)
    assert request.offset == 3


@pytest.mark.parametrize("name", ["", "x" * 65, "x" * 300, "-a", "\udcff"])
def test_name_that_no_job_can_have(
    server: FakeServer, capsys: Capture, name: str
) -> None:
    """Whatever is wrong with it, one sentence says what a name is."""
    assert main(["run", f"--name={name}", "true"]) == 125
    assert error_of(capsys) == (
        f"twctl: error: name {name!r} is not valid; use 1 to 64 of A-Z a-z 0-9 _ . -"
        " and begin with a letter or digit\n"
    )
    assert not server.connections
