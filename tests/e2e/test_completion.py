"""What a shell completes: verbs, options, values, contexts, and jobs of the server."""

import shutil
import subprocess
from typing import Any

import pexpect
import pytest

from tests.e2e.commandline import Twctl


def words(alice: Twctl, *typed: str, shell: str = "bash") -> list[str]:
    """Return what may take the place of the last word."""
    done = alice("__complete", shell, *typed)
    assert (done.code, done.stderr) == (0, "")
    return done.stdout.decode().splitlines()


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (("sta",), ["status"]),
        (("--host", "nowhere:1", "inf"), ["info"]),
        (("run", "--st"), ["--stdin", "--strict-limits"]),
        (("run", "--on-full", ""), ["block", "drop", "kill"]),
        (("run", "--name", ""), []),
        (("run", ""), []),
        (("status", "-o", "j"), ["json"]),
        (
            ("list", "--filter", "state=st"),
            ["state=starting", "state=stopping", "state=stopped"],
        ),
        (("kill", "-s", "US"), ["USR1", "USR2"]),
        (("context", ""), ["ls", "use", "set", "rm"]),
        (("completion", ""), ["bash", "zsh", "fish"]),
        (("--ver",), ["--version"]),
        (("nosuch", ""), None),
    ],
)
def test_without_a_server(
    alice: Twctl, typed: tuple[str, ...], expected: list[str] | None
) -> None:
    """What can be known from the program alone."""
    found = words(alice, *typed)

    if expected is None:
        assert "run" in found
    else:
        assert sorted(found) == sorted(expected)


def test_jobs(alice: Twctl) -> None:
    """Jobs are completed by what a verb is for, by name too, with what they run."""
    running = alice.run("--name", "runner", "--", "sleep", "300")
    ended = alice.shell("exit 3")
    alice.ended(ended)

    assert {running, "runner"} <= set(words(alice, "kill", ""))
    assert ended not in words(alice, "kill", "")
    assert words(alice, "rm", ended[:6]) == [ended]
    assert words(alice, "tail", "-f", running[:6]) == [running]
    assert words(alice, "tail", "runne", shell="fish") == ["runner\trunning: sleep 300"]
    assert words(alice, "tail", "runne", shell="zsh") == ["runner:running: sleep 300"]
    alice("kill", running)


def test_filters(alice: Twctl) -> None:
    """What jobs have can be looked for."""
    job = alice.run("--name", "f1", "-l", "team=red", "--", "true")
    alice("wait", job)

    assert words(alice, "list", "--filter", "label=team") == ["label=team=red"]
    assert words(alice, "rm", "--filter", "name=f", shell="fish") == ["name=f1\t1 job"]


def test_accounts(alice: Twctl) -> None:
    """So can the accounts that are granted."""
    assert words(alice, "run", "-u", "") == alice("info", "-o", "json").json["accounts"]


def test_no_server(alice: Twctl) -> None:
    """Where nobody answers there is nothing to complete, and no complaint."""
    assert words(alice, "--host", "127.0.0.1:1", "kill", "") == []


def test_contexts(alice: Twctl) -> None:
    """Contexts are completed from the file of contexts."""
    alice("context", "set", "office", "--host", "office:1")

    assert words(alice, "--context", "off") == ["office"]
    assert words(alice, "context", "use", "") == ["office"]
    alice("context", "rm", "office")


def test_bash(alice: Twctl) -> None:
    """The script for bash does it for real."""
    program = " ".join(alice.program)
    script = (
        f'twctl() {{ {program} "$@"; }}; eval "$(twctl completion bash)";'
        " COMP_WORDS=(twctl context u); COMP_CWORD=2; _twctl;"
        ' echo "${COMPREPLY[@]}"; complete -p twctl'
    )
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        check=True,
        text=True,
        env=alice.environment,
        timeout=30,
    )

    assert done.stdout.splitlines()[0] == "use"
    assert "-F _twctl twctl" in done.stdout


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("twctl info --out", "twctl info --output"),
        ("twctl list --filter state=lo", "twctl list --filter state=lost"),
        ("twctl list --output=js", "twctl list --output=json"),
        ("twctl list --filter=state=lo", "twctl list --filter=state=lost"),
    ],
)
def test_tabulator(alice: Twctl, typed: str, expected: str) -> None:
    """Pressed in a real bash, it completes also what bash divides."""
    environment: Any = alice.environment | {"PS1": "ready> ", "TERM": "dumb"}
    shell = pexpect.spawn(
        *("bash", ["--norc", "--noprofile", "-i"]), env=environment, timeout=20
    )

    try:
        program = " ".join(alice.program)
        shell.sendline(
            f'twctl() {{ {program} "$@"; }}; eval "$(twctl completion bash)"'
        )
        shell.sendline("echo loa''ded")
        shell.expect("loaded")
        shell.send(f"{typed}\t")
        shell.expect_exact(f"{expected} ")
    finally:
        shell.close(force=True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_sound(alice: Twctl, shell: str) -> None:
    """Each script can be read by its shell, where that is installed."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")

    script = alice("completion", shell).stdout
    subprocess.run([shell, "-n"], input=script, check=True, timeout=30)


def test_unknown_shell(alice: Twctl) -> None:
    """Another shell is refused, with those that there are."""
    done = alice("completion", "csh")

    assert done.code == 2
    assert "'csh' is not bash, zsh, fish" in done.error
