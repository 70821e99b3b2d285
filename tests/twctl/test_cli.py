"""The verbs, called in this process against a fake server in a thread."""

import json
import re
from dataclasses import replace

import pytest

from teleworkerd.protocol.errors import PermissionDenied, ProtocolViolation
from teleworkerd.protocol.messages import (
    KillRequest,
    ListRequest,
    StatusRequest,
    StopRequest,
)
from teleworkerd.protocol.status import LaunchFailure
from teleworkerd.protocol.types import JobState, LaunchStage, Stream
from tests.twctl.calling import RUNNING, Capture, asked, error_of
from tests.twctl.fake import OTHER_ID, THIRD_ID, FakeServer
from tests.twctl.fake_output import JOB_ID, FakeJob, make_status
from twctl.cli import VERBS, main
from twctl.commands.options import Call
from twctl.profile import Profile


pytestmark = [pytest.mark.usefixtures("environment"), pytest.mark.timeout(20)]


@pytest.fixture(autouse=True)
def job(server: FakeServer) -> FakeJob:
    """A job that has ended well."""
    server.jobs[JOB_ID] = FakeJob(
        output={Stream.STDOUT: b"out\n", Stream.STDERR: b"err\n"}
    )
    return server.jobs[JOB_ID]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope"], "'nope'; see 'twctl --help'"),
        (["stat"], "Did you mean 'status'"),
        (["--bogus", "list"], "--bogus"),
        (["tail"], "JOB"),
        (["list", "--host", "h"], "--host stands before the verb: twctl --host … list"),
        (["tail", "--err", "--all", JOB_ID], "'--err' / '--all'"),
        (["tail", "--from-offset=-1", JOB_ID], "--from-offset"),
        (["status", "--bogus", JOB_ID], "see 'twctl status --help'"),
        (["status", "x" * 65], "65"),
        (["status", ""], "JOB': it is empty"),
        (["events", "--since-seq", "Now"], "whole number from 0 on, nor 'now'"),
        (["kill", "-s", "0", JOB_ID], "'0' is not a signal"),
        (["kill", "-s", "65", JOB_ID], "'65' is not a signal"),
        (["kill", "-s", "NOPE", JOB_ID], "'NOPE' is not a signal"),
        (["kill", "-s", "-9", JOB_ID], "'-9' is not a signal"),
        (["stop", "-t", "-2", JOB_ID], "--time"),
        (["stop", "-t", "9999d", JOB_ID], "too long"),
        (["stop", "-t", "abc", JOB_ID], "write 10, 10s, 5m, 2h or 1h30m, or -1 for ev"),
        (["stop", "-t"], "see 'twctl stop --help'"),
        (["context", "set", "x", "--ca"], "Option '--ca' requires an argument"),
        (["context", "set"], "see 'twctl context set --help'"),
        (["context", "use", "--bogus"], "see 'twctl context use --help'"),
        (["context", "ust", "x"], "'set'? See 'twctl context --help'"),
        (["list", "--filter", "colour=red"], "colour"),
        (["list", "--limit", "0"], "--limit"),
        (["ps", "-o", "xml"], "see 'twctl ps --help'"),
        (["wait", "--timeout", "soon", JOB_ID], "soon"),
    ],
)
def test_usage(
    server: FakeServer, capsys: Capture, arguments: list[str], words: str
) -> None:
    """Bad usage of another verb is 2, one line, and nothing is sent."""
    assert main(arguments) == 2
    assert words in error_of(capsys)
    assert not server.connections


def test_no_memory(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """A lack of memory is no bug of ours."""

    def lack(_: Call) -> Profile:
        raise MemoryError

    monkeypatch.setattr(Call, "profile", lack)

    assert main(["info"]) == 125
    assert "there is not enough memory; free some" in error_of(capsys)


def test_form_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """A form that cannot be is told as the variable's, if that says it."""
    monkeypatch.setenv("TWCTL_OUTPUT", "xml")

    assert main(["info"]) == 2
    assert "'TWCTL_OUTPUT': 'xml' is not text or json" in error_of(capsys)


@pytest.mark.parametrize("verb", ["status", "tail", "kill", "stop", "wait", "rm"])
def test_unknown_job(capsys: Capture, verb: str) -> None:
    """A job that is not there is 1 for every verb."""
    assert main([verb, "nope"]) == 1
    assert "no job nope" in error_of(capsys)


def test_kill(server: FakeServer, job: FakeJob, capsys: Capture) -> None:
    """Signal and tree are passed on, for each job."""
    job.status = RUNNING

    assert main(["kill", JOB_ID]) == 0
    assert main(["kill", "-s", "usr1", "--tree", JOB_ID, JOB_ID]) == 0
    assert capsys.readouterr() == ("", "")
    assert asked(server, KillRequest) == [
        KillRequest(0, JOB_ID, 9),
        KillRequest(0, JOB_ID, 10, tree=True),
        KillRequest(1, JOB_ID, 10, tree=True),
    ]


def test_kill_goes_on(server: FakeServer, job: FakeJob, capsys: Capture) -> None:
    """A job that is not there does not save the others."""
    job.status = RUNNING

    assert main(["kill", "nope", JOB_ID]) == 1
    assert len(asked(server, KillRequest)) == 2


def test_kill_of_an_ended_job(capsys: Capture) -> None:
    """What had ended is a notice."""
    assert main(["kill", JOB_ID]) == 0
    assert capsys.readouterr() == ("", f"twctl: job {JOB_ID} had already ended\n")


@pytest.mark.parametrize(
    ("options", "grace"), [([], 10), (["-t", "1m"], 60), (["-t", "-1"], None)]
)
def test_stop(server: FakeServer, options: list[str], grace: float | None) -> None:
    """The grace is 10 s, what is asked for, or for ever."""
    assert main(["stop", *options, JOB_ID]) == 0
    assert asked(server, StopRequest) == [StopRequest(0, JOB_ID, grace)]


def test_rm(server: FakeServer, capsys: Capture) -> None:
    """Each job that has ended is removed, and nothing is said."""
    server.jobs["other"] = FakeJob(make_status(id=OTHER_ID))

    assert main(["rm", JOB_ID, "other"]) == 0
    assert capsys.readouterr() == ("", "")
    assert not server.jobs
    assert main(["rm", JOB_ID]) == 1


def test_rm_goes_on(server: FakeServer, capsys: Capture) -> None:
    """A job that has not ended stays, and does not save the others."""
    server.jobs["live"] = FakeJob(replace(RUNNING, id=OTHER_ID))

    assert main(["rm", "-o", "json", "live", "nope", JOB_ID]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == {"schema": 1, "removed": [JOB_ID]}
    assert err.splitlines() == [
        "twctl: error: job live has not ended",
        "twctl: error: there is no job nope",
    ]
    assert list(server.jobs) == ["live"]


def test_status(server: FakeServer, job: FakeJob, capsys: Capture) -> None:
    """Text and JSON tell of the same job; the code is 0 unless asked for."""
    job.status = make_status(exit_code=5)

    assert main(["status", JOB_ID]) == 0
    assert JOB_ID in capsys.readouterr().out
    assert main(["status", "-o", "json", "--exit-code", JOB_ID]) == 5
    assert json.loads(capsys.readouterr().out)["exit_code"] == 5


def test_output_by_environment(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TWCTL_OUTPUT chooses the form for every verb that prints."""
    monkeypatch.setenv("TWCTL_OUTPUT", "json")

    for arguments in (["run", "ls"], ["status", JOB_ID], ["ps", "-a"], ["info"]):
        assert main(arguments) == 0
        assert json.loads(capsys.readouterr().out)

    assert main(["wait", JOB_ID]) == 0
    assert json.loads(capsys.readouterr().out)[0]["id"] == JOB_ID


def test_list(server: FakeServer, capsys: Capture) -> None:
    """Without -a or a state only the living are asked for."""
    main(["list"])
    main(["ps", "-a", "--limit", "3", "--filter", "name=n", "--filter", "label=k=v"])
    main(["list", "--filter", "state=lost"])

    live = (JobState.STARTING, JobState.RUNNING, JobState.STOPPING)
    assert asked(server, ListRequest) == [
        ListRequest(0, live),
        ListRequest(0, (), "n", {"k": "v"}, 3),
        ListRequest(0, (JobState.LOST,)),
    ]


def test_list_of_many(server: FakeServer, capsys: Capture) -> None:
    """All pages are read, and -q prints IDs only."""
    server.jobs = {f"job{n}": FakeJob(make_status(id=f"job{n}")) for n in range(1100)}

    assert main(["list", "-a", "-q"]) == 0
    assert capsys.readouterr().out.split() == list(server.jobs)
    assert main(["list", "-a", "-o", "json", "--limit", "501"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 501


def test_wait(server: FakeServer, capsys: Capture) -> None:
    """One code a line, in the order of the jobs; ours is the highest."""
    server.jobs |= {
        str(code): FakeJob(make_status(id=str(code), exit_code=code)) for code in (3, 9)
    }

    assert main(["wait", "3", "9", JOB_ID]) == 9
    assert capsys.readouterr() == ("3\n9\n0\n", "")


def test_wait_without_reconnecting(server: FakeServer, capsys: Capture) -> None:
    """--no-reconnect makes a lost connection a failure."""
    server.cuts = [150]

    assert main(["wait", "--no-reconnect", JOB_ID]) == 125
    assert "the connection was lost" in error_of(capsys)
    assert server.connections == 1


def test_wait_with_a_timeout(server: FakeServer, capsys: Capture) -> None:
    """What has ended is printed, and the code is 124."""
    server.jobs["forever"] = FakeJob(replace(RUNNING, id=OTHER_ID))

    assert main(["wait", "--timeout", "200ms", JOB_ID, "forever"]) == 124
    out, err = capsys.readouterr()
    assert out == "0\n"
    assert "not ended within 0.2 s: forever" in err


def test_wait_for_a_job_without_a_code(server: FakeServer, capsys: Capture) -> None:
    """A launch failure is 127, a lost job 125, each with a line."""
    server.jobs["failed"] = FakeJob(
        make_status(
            id=OTHER_ID,
            state=JobState.FAILED,
            exit_code=None,
            error=LaunchFailure(LaunchStage.EXEC, 2, "no such command"),
        )
    )
    server.jobs["lost"] = FakeJob(
        make_status(id=THIRD_ID, state=JobState.LOST, exit_code=None)
    )

    assert main(["wait", "failed", "lost"]) == 127
    out, err = capsys.readouterr()
    assert out == "127\n125\n"
    assert "no such command" in err
    assert "was lost" in err


def test_info(capsys: Capture) -> None:
    """The CN that the server sees is there in both forms."""
    assert main(["info"]) == 0
    assert "you are:     alice" in capsys.readouterr().out.splitlines()
    assert main(["info", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "alice"


def test_lost_answer_of_another_verb(server: FakeServer, capsys: Capture) -> None:
    """Another verb fails with the loss."""
    server.cuts = [130]

    assert main(["status", JOB_ID]) == 125
    assert "the connection was lost" in error_of(capsys)
    assert len(asked(server, StatusRequest)) <= 1


@pytest.mark.parametrize("verb", ["status", "kill", "wait", "tail", "run"])
def test_refused_connection(server: FakeServer, capsys: Capture, verb: str) -> None:
    """A connection that breaks a rule after the hello is 125 for every verb."""
    server.farewell = ProtocolViolation("too long a silence")

    assert main([verb, JOB_ID]) == 125
    assert "too long a silence" in error_of(capsys)


@pytest.mark.parametrize("verb", ["status", "kill", "wait", "tail", "run"])
def test_withdrawn_access(server: FakeServer, capsys: Capture, verb: str) -> None:
    """Who is shown out after the hello has lost the connection: 125."""
    server.farewell = PermissionDenied("your certificate has been revoked")

    assert main([verb, JOB_ID]) == 125
    assert "your certificate has been revoked" in error_of(capsys)
    assert server.connections == 1


def test_missing_settings(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server there is one line that says what to set: 125."""
    monkeypatch.delenv("TWCTL_HOST")

    assert main(["status", JOB_ID]) == 125
    assert "use --host, set TWCTL_HOST" in error_of(capsys)


def test_flags_win(environment: object, capsys: Capture) -> None:
    """A flag before the verb is stronger than the environment."""
    assert main(["--ca", "/none", "info"]) == 125
    assert "--ca /none cannot be read" in error_of(capsys)


def test_bug_is_one_line(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even what should never happen is no traceback."""
    monkeypatch.setattr("twctl.commands.info.info_text", lambda _: 1 / 0)

    assert main(["info"]) == 125
    assert "ZeroDivisionError" in error_of(capsys)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["run", "--help"]])
def test_help(capsys: Capture, arguments: list[str]) -> None:
    """Help goes to stdout and is no failure."""
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Usage: twctl")
    assert err == ""


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """It says what each option does, and shows no option that there is not."""
    monkeypatch.setenv("COLUMNS", "200")

    assert main([verb, "--help"]) == 0
    text, _, examples = capsys.readouterr().out.partition("Examples:")

    assert text.startswith(f"Usage: twctl {verb} ")
    assert "<" not in text
    options = re.findall(
        r"^  (-.*?)(?:  +(.*))?$", text.partition("Options:")[2], re.MULTILINE
    )
    assert all(meaning for _, meaning in options), options

    for line in examples.splitlines():
        call = re.sub(r"\s+#.*| -- .*", "", line).partition(f"twctl {verb}")[2]

        for option in re.findall(r"(?<= )--?[a-z]+(?:-[a-z]+)*", call):
            parts = [option] if option[:2] == "--" else [f"-{c}" for c in option[1:]]
            assert all(re.search(rf"{part}\b", text) for part in parts), line


def test_version(capsys: Capture) -> None:
    """The version has the program's name before it."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("twctl ")
