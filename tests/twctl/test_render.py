"""What `twctl` prints."""

import json
import re
from dataclasses import replace

import pytest

from teleworkerd.protocol.spec import Limits
from teleworkerd.protocol.status import LaunchFailure, StreamStatus, Usage
from teleworkerd.protocol.types import JobState, LaunchStage, OnFull, Reason
from tests.twctl.fake_output import JOB_ID, make_status
from twctl.pretty import age, list_text, status_text
from twctl.render import escape, moment, print_json, status_object


FULL = make_status(
    command=(b"sh", b"-c", b"\xff"),
    name="n",
    labels={"k": "v"},
    exit_code=137,
    signal=9,
    state=JobState.STOPPED,
    reason=Reason.KILLED,
    started_at=1_767_323_045_200_000_000,
    ended_at=1_767_323_046_000_000_001,
    user="nobody",
    limits=Limits(mem=100, cpu=50),
    applied=Limits(mem=100),
    not_applied={"cpu": "no controller"},
    usage=Usage(0.5, 1, 2, 3, 4, 0),
    stdout=StreamStatus(5, 12, bytes(32), 3),
    merge=True,
    output_limit=1000,
    on_full=OnFull.DROP,
    held_up="the disk is full",
    durable=True,
)

GOLDEN = {
    "schema": 1,
    "id": JOB_ID,
    "owner": "alice",
    "name": "n",
    "labels": {"k": "v"},
    "command": ["sh", "-c", "\udcff"],
    "state": "stopped",
    "exit_code": 137,
    "signal": 9,
    "reason": "killed",
    "error": None,
    "created_at": "2026-01-02T03:04:05.123456789Z",
    "started_at": "2026-01-02T03:04:05.200000000Z",
    "ended_at": "2026-01-02T03:04:06.000000001Z",
    "user": "nobody",
    "limits": {
        "requested": {"mem": 100, "cpu": 50, "io": None},
        "applied": {"mem": 100},
        "not_applied": {"cpu": "no controller"},
    },
    "default_limits": {},
    "truncated": False,
    "usage": {
        "cpu_seconds": 0.5,
        "memory_peak_bytes": 1,
        "io_read_bytes": 2,
        "io_write_bytes": 3,
        "processes": 4,
        "oom_kills": 0,
        "memory_bytes": None,
    },
    "output": {
        "stdout": {"bytes": 12, "first_offset": 5, "sha256": "00" * 32, "dropped": 3},
        "stderr": {"bytes": 0, "first_offset": 0, "sha256": None, "dropped": 0},
    },
    "stdin": False,
    "tty": False,
    "wait_all": False,
    "merge": True,
    "output_limit": 1000,
    "on_full": "drop",
    "held_up": "the disk is full",
    "unkillable": None,
    "durable": True,
}


def test_status_object() -> None:
    """A status has exactly the keys that scripts know, in their order."""
    assert status_object(FULL) == GOLDEN
    assert list(status_object(FULL)) == list(GOLDEN)


def test_json_is_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    """A command that is not UTF-8 is printed as escapes that can be read back."""
    print_json(status_object(FULL))

    printed = capsys.readouterr().out
    assert printed.isascii()
    assert r'"\udcff"' in printed
    assert json.loads(printed) == GOLDEN


def test_error_is_its_message() -> None:
    """The reason of a launch failure is a sentence."""
    failure = LaunchFailure(LaunchStage.EXEC, 2, "no such command")

    assert status_object(make_status(error=failure))["error"] == "no such command"


def test_moment_before_a_second() -> None:
    """Nanoseconds keep all nine digits."""
    assert moment(1) == "1970-01-01T00:00:00.000000001Z"


def test_escape() -> None:
    """Nothing that a terminal would act upon, or cannot show, gets through."""
    text = "a\x1b[31m\né\u202e\udcff\x7f"

    assert escape(text) == r"a\x1b[31m\né\u202e\xff\x7f"


def test_bars() -> None:
    """On request there are bars of what a running job uses of its limits."""
    job = replace(
        make_status(state=JobState.RUNNING),
        applied=Limits(mem=64, pids=20),
        usage=Usage(memory_bytes=32 << 20, processes=5),
    )
    bars = [
        line
        for line in status_text(job, now=job.created_at).splitlines()
        if "[" in line
    ]

    assert bars == [
        "memory:      [##########----------] 50% of 64.0 MiB",
        "processes:   [#####---------------] 25% of 20",
    ]
    assert "[#" not in status_text(job)
    assert "[#" not in status_text(replace(job, state=JobState.FINISHED), now=0)


def test_status_text() -> None:
    """The text has all that is known, one fact a line."""
    text = status_text(FULL)

    assert "state:       stopped (killed)" in text.splitlines()
    assert r"command:     sh -c '\xff'" in text.splitlines()
    assert "limits:      mem 100 MB, cpu 50% of a share" in text.splitlines()
    assert "not applied: cpu: no controller" in text.splitlines()
    assert "stdout:      12 bytes, from 5 on, 3 of them dropped" in text.splitlines()
    assert "stderr:      into stdout" in text.splitlines()
    assert "output:      1000 bytes at most, drop when full" in text.splitlines()
    assert "held up:     the disk is full" in text.splitlines()
    assert "error" not in text


def test_how_long_ago() -> None:
    """Who looks at it sees how long ago that was, and how long it took."""
    second = 10**9
    job = replace(FULL, created_at=0, started_at=2 * second, ended_at=7_202 * second)

    text = status_text(job, now=100_000 * second)

    assert re.search(r"^created: .*Z \(1d ago\)$", text, re.MULTILINE)
    assert re.search(r"^ended: .*Z \(1d ago, after 2h\)$", text, re.MULTILINE)
    assert " ago" not in status_text(job)


def test_list_text() -> None:
    """A table with short IDs, codes, ages and one line for each job."""
    running = make_status(
        state=JobState.RUNNING, exit_code=None, command=(b"a b", b"x" * 99)
    )

    table = list_text([FULL, running], now=FULL.created_at + 7_300 * 10**9)

    assert table.splitlines() == [
        "ID            NAME  STATE    EXIT  AGE  COMMAND",
        r"0123abcd-000  n     stopped  137   2h   sh -c '\xff'",
        f"0123abcd-000  -     running  -     2h   'a b' {'x' * 53}…",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (86_400, "1d")],
)
def test_ages(seconds: int, text: str) -> None:
    """An age is told in its greatest unit."""
    assert age(seconds) == text
