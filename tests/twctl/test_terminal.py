"""What others may have chosen cannot make a terminal do anything."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleworkerd.protocol.errors import JobNotFound, LaunchFailed
from teleworkerd.protocol.messages import ListRequest, RunRequest, StatusRequest
from teleworkerd.protocol.status import JobStatus, LaunchFailure
from teleworkerd.protocol.types import JobState, LaunchStage, Stream
from tests.twctl.calling import Capture
from tests.twctl.fake import FakeServer
from tests.twctl.fake_output import JOB_ID, FakeJob, make_status
from twctl.cli import main
from twctl.pretty import list_text
from twctl.render import escape, to_json


pytestmark = pytest.mark.timeout(40)

# A colour, a title, both ends of a line, DEL, CSI of C1, bidi, what nobody sees, a tag.
HOSTILE: Final = (
    "a\x1b[31m\x1b]0;t\x07\r\nb\x7f\x9b2J\u202e\u2066\u200b\u2028\ufeff\ufe0f"
)
SHOWN: Final = (
    r"a\x1b[31m\x1b]0;t\x07\r\nb\x7f\x9b2J\u202e\u2066\u200b\u2028\ufeff\ufe0f"
)
IN_COMMAND: Final = (b"echo", HOSTILE.encode(), b"\xff\x1bc", "\U000e0041".encode())


def hostile(**changes: Any) -> JobStatus:
    """Return a job in which every text is hostile."""
    texts: dict[str, Any] = {
        "exit_code": None,
        "owner": HOSTILE,
        "name": HOSTILE,
        "labels": {HOSTILE: HOSTILE},
        "command": IN_COMMAND,
        "error": LaunchFailure(LaunchStage.EXEC, 2, HOSTILE),
        "user": HOSTILE,
        "workdir": HOSTILE.encode(),
        "not_applied": {HOSTILE: HOSTILE},
        "held_up": HOSTILE,
    }
    return make_status(**(texts | changes))


def on_a_terminal(*arguments: str) -> list[str]:
    """Run `twctl` with a terminal for both outputs; return the lines on it."""
    master, slave = pty.openpty()

    try:
        with subprocess.Popen(
            [sys.executable, "-m", "twctl", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
            env=os.environ | {"LC_ALL": "C.UTF-8"},
        ):
            os.close(slave)
            shown = _read_to_the_end(master)
    finally:
        os.close(master)

    return shown.decode().split("\r\n")


def _read_to_the_end(master: int) -> bytes:
    shown = bytearray()

    try:
        while data := os.read(master, 4096):
            shown += data
    except OSError:  # nobody has the other side any more
        pass

    return bytes(shown)


def check(lines: Sequence[str]) -> str:
    """Return all *lines*; none may have what a terminal acts upon."""
    for line in lines:
        assert line.isprintable(), line
        assert "\ufe0f" not in line

    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    "arguments",
    [
        ["status", JOB_ID],
        ["status", "--exit-code", JOB_ID],
        ["list", "-a"],
        ["list", "-a", "--all-owners"],
        ["list", "-a", "-q"],
        ["wait", JOB_ID],
        ["info"],
        ["run", "ls"],
        ["rm", "-o", "json", JOB_ID],
        *(
            [verb, "-o", "json", *rest]
            for verb, *rest in (
                ["status", JOB_ID],
                ["list", "-a"],
                ["wait", JOB_ID],
                ["info"],
                ["run", "ls"],
            )
        ),
    ],
    ids=" ".join,
)
def test_every_verb(server: FakeServer, arguments: list[str]) -> None:
    """No verb prints what a terminal acts upon, whatever the server sends."""
    server.jobs[JOB_ID] = FakeJob(hostile(id=HOSTILE))
    server.started_as = server.name = HOSTILE
    server.accounts = (HOSTILE,)

    # Bold heads, a dim state, and the end of either: those are ours.
    lines = [re.sub(r"\x1b\[[012]m", "", line) for line in on_a_terminal(*arguments)]
    text = check(lines)

    assert r"\x1b[31m" in text or r"\u001b[31m" in text


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["status", JOB_ID], StatusRequest),
        (["list"], ListRequest),
        (["run", "ls"], RunRequest),
        (["run", "-f", "ls"], RunRequest),
    ],
)
def test_every_error(server: FakeServer, arguments: list[str], kind: type) -> None:
    """What the server says of a failure is one harmless line."""
    server.errors[kind] = LaunchFailed(HOSTILE, {"stage": HOSTILE})

    lines = on_a_terminal(*arguments)

    assert lines == [f"twctl: error: {SHOWN}", ""]


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_refusal_of_the_connection(server: FakeServer) -> None:
    """So is what it says in place of a hello."""
    server.greetings = [JobNotFound(HOSTILE)]

    lines = on_a_terminal("info")

    assert check(lines).count(SHOWN) == 1
    assert len(lines) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    "arguments",
    [
        [HOSTILE],
        ["status", HOSTILE],
        ["run", "--mem", HOSTILE, "ls"],
        ["list", "--filter", HOSTILE],
        ["--cert", HOSTILE, "info"],
        ["--host", HOSTILE, "info"],
        ["--context", HOSTILE, "info"],
    ],
)
def test_own_arguments(server: FakeServer, arguments: list[str]) -> None:
    """What a script was given by somebody else is shown as harmlessly."""
    lines = on_a_terminal(*arguments)

    check(lines)
    assert len(lines) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_output_is_raw(server: FakeServer, capfdbinary: Any) -> None:
    """What the job wrote is the job's: not a byte is changed."""
    data = bytes(range(256)) + HOSTILE.encode()
    server.jobs[JOB_ID] = FakeJob(output={Stream.STDOUT: data})

    assert main(["tail", JOB_ID]) == 0
    assert capfdbinary.readouterr().out == data


def test_one_line_for_each_job(capsys: Capture) -> None:
    """A table stays one, for programs that read it from a pipe too."""
    jobs = [hostile(), hostile(state=JobState.RUNNING, exit_code=None)]

    lines = list_text(jobs, now=jobs[0].created_at, with_owners=True).split("\n")

    assert len(lines) == 3
    assert lines[1].split("  ")[1] == SHOWN
    check(lines)


@given(st.text())
def test_escaped(text: str) -> None:
    """Whatever it was, it is printable then, and stays as it is."""
    escaped = escape(text)

    assert escaped.isprintable()
    assert escape(escaped) == escaped


@given(st.text(st.characters(codec="utf-8")))
def test_json(text: str) -> None:
    """JSON is printable ASCII from which the text can be had back."""
    printed = to_json({"text": text})

    assert printed.isascii()
    assert printed.isprintable()
    assert json.loads(printed) == {"text": text}


@pytest.mark.parametrize(
    "char", "\u034f\u115f\u17b4\u180b\u2800\u3164\ufe00\uffa0\U000e0100\xad\xa0"
)
def test_what_nobody_sees(char: str) -> None:
    """What takes no ink is shown by its number."""
    assert escape(f"a{char}b") == f"a{char.encode('unicode_escape').decode()}b"


@pytest.mark.parametrize(
    "text", ["", "a b", "é", "日本", "Ω", "a\\nb", "🙂", "e\u0301"]
)
def test_harmless(text: str) -> None:
    """What people write stays as it is."""
    assert escape(text) == text
