"""The list of jobs on a terminal."""

import re
from dataclasses import replace

import pytest

from teleworkerd.protocol.types import JobState
from tests.twctl.fake_output import make_status
from twctl.commands.table import print_list


JOB = make_status(name="build", command=(b"make", b"-j8", *[b"target"] * 40))
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a terminal of 90 columns."""
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_command_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    """The command has what room there is; all else is whole, each job a line."""
    print_list([JOB, replace(JOB, name="a" * 30)], now=JOB.created_at)

    head, *lines = COLOURS.sub("", capsys.readouterr().out).splitlines()
    assert head.split() == ["ID", "NAME", "STATE", "EXIT", "AGE", "COMMAND"]
    assert [line.split()[:2] for line in lines] == [
        [JOB.id[:12], "build"],
        [JOB.id[:12], "a" * 30],
    ]
    assert all(len(line) <= 90 and line.endswith("…") for line in lines)


def test_colours(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is well and what is not looks different, unless colours are unwanted."""
    jobs = [replace(JOB, state=JobState.RUNNING), replace(JOB, exit_code=1)]

    print_list(jobs, now=JOB.created_at)
    coloured = capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    print_list(jobs, now=JOB.created_at)
    plain = capsys.readouterr().out

    assert "\x1b[32mrunning" in coloured
    assert "\x1b[31mfinished" in coloured
    assert not re.search(r"\x1b\[3[0-9]m", plain)


def test_no_jobs(capsys: pytest.CaptureFixture[str]) -> None:
    """Without jobs there are the heads."""
    print_list([], now=0)

    assert len(capsys.readouterr().out.splitlines()) == 1


def test_one_screen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more than there are lines the first are shown, and how many more there are."""
    monkeypatch.setenv("LINES", "6")
    jobs = [replace(JOB, name=f"job{number}") for number in range(9)]

    print_list(jobs[:4], now=JOB.created_at, on_one_screen=True)
    all_of_them = COLOURS.sub("", capsys.readouterr().out).splitlines()
    print_list(jobs, now=JOB.created_at, on_one_screen=True)
    some = COLOURS.sub("", capsys.readouterr().out).splitlines()

    assert [line.split()[1] for line in all_of_them[1:]] == [
        *map("job{}".format, range(4))
    ]
    assert [line.split()[1] for line in some[1:-1]] == ["job0", "job1", "job2"]
    assert some[-1] == "… and 6 more"
