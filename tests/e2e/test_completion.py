"""What a shell completes: verbs, options, values, contexts, and jobs of the server."""

import shutil
import subprocess

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
