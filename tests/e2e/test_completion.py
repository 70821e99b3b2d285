"""What a shell completes: verbs, options, values, contexts, and jobs of the server."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pexpect
import pytest

from tests.e2e.commandline import Twctl, seconds_since
from tests.e2e.waiting import PATIENCE
from tests.twctl.impostors import listening, strict_context


# Each with nothing of this machine's, and what has it complete calls of `twctl`.
SHELLS: Final = {
    "bash": ("bash --norc --noprofile -i", 'eval "$(twctl completion bash)"'),
    "zsh": (
        "zsh -f -i",
        'autoload -Uz compinit; compinit -D -u; eval "$(twctl completion zsh)"',
    ),
    "fish": ("fish --no-config -i", "twctl completion fish | source"),
}


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
        (("run", "--env", ""), []),
        (("status", "-o", "j"), ["json"]),
        (
            ("list", "--filter", "state=st"),
            ["state=starting", "state=stopping", "state=stopped"],
        ),
        (("kill", "-s", "US"), ["USR1", "USR2"]),
        (("context", ""), ["ls", "use", "set", "rm"]),
        (("completion", ""), ["bash", "zsh", "fish"]),
        (("--ver",), ["--version"]),
        (("kill", "--", "--f"), []),
    ],
)
def test_without_a_server(
    alice: Twctl, typed: tuple[str, ...], expected: list[str]
) -> None:
    """What can be known from the program alone."""
    assert sorted(words(alice, *typed)) == sorted(expected)


def test_unknown_verb(alice: Twctl) -> None:
    """What is mistyped is no reason to show nothing."""
    assert "run" in words(alice, "nosuch", "")


@pytest.mark.parametrize(
    "typed",
    [
        ("run", ""),
        ("run", "ls", "--al"),
        ("run", "--", "--al"),
        ("run", "--name", "x", "cat", "fi"),
        ("run", "--env-file", ""),
        ("run", "--env-file=fi"),
        ("--ca", "fi"),
        ("context", "set", "office", "--key", "fi"),
    ],
)
def test_files(alice: Twctl, typed: tuple[str, ...]) -> None:
    """Names of files are left to the shell, and nothing else is."""
    done = alice("__complete", "bash", *typed)

    assert (done.code, done.stdout, done.stderr) == (1, b"", "")


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


def test_no_job_twice(alice: Twctl) -> None:
    """One that stands there is not offered again, and none where one was enough."""
    first = alice.run("--name", "one", "--", "sleep", "300")
    second = alice.run("--", "sleep", "300")

    assert second in words(alice, "kill", first, "")
    assert not {first, "one"} & {*words(alice, "kill", "one", "")}
    assert words(alice, "attach", first, "") == []
    assert words(alice, "status", "-o", "json", first, "") == []
    alice("kill", first, second)


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


def test_silent_server(alice: Twctl) -> None:
    """Nobody waits long for a server that takes a connection and says nothing."""
    context = strict_context(alice.daemon.certs)

    def shake(raw: socket.socket) -> None:
        with context.wrap_socket(raw, server_side=True) as tls:
            while tls.recv(4096):
                pass

    with listening(shake) as address:
        begin = time.monotonic()

        assert words(alice, "--host", address, "kill", "") == []
        assert seconds_since(begin) < 5 * PATIENCE


def test_contexts(alice: Twctl) -> None:
    """Contexts are completed from the file of contexts."""
    alice("context", "set", "office", "--host", "office:1")

    assert words(alice, "--context", "off") == ["office"]
    assert words(alice, "context", "use", "") == ["office"]
    assert words(alice, "context", "use", "office", "") == []
    assert words(alice, "context", "rm", "office", "") == []
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


@contextmanager
def interactive(alice: Twctl, name: str, directory: Path) -> Iterator[Any]:
    """Run the shell of that *name* in *directory*, with completion of `twctl`."""
    command, completion = SHELLS[name]
    twctl = directory / "bin/twctl"
    twctl.parent.mkdir()
    twctl.write_text(f'#!/bin/sh\nexec {" ".join(alice.program)} "$@"\n')
    twctl.chmod(0o755)
    environment: Any = alice.environment | {
        "PATH": f"{twctl.parent}:{alice.environment['PATH']}",
        "HOME": str(directory),
        "TERM": "dumb",
    }
    program, *arguments = command.split()
    shell = pexpect.spawn(
        program, arguments, env=environment, cwd=directory, timeout=20
    )

    try:
        shell.sendline(completion)
        shell.sendline("echo loa''ded")
        shell.expect("loaded\r")
        yield shell
    finally:
        shell.close(force=True)


@pytest.mark.parametrize("name", SHELLS)
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("twctl sta", "twctl status "),
        ("twctl info --out", "twctl info --output "),
        ("twctl list --filter state=lo", "twctl list --filter state=lost "),
        ("twctl list --output=js", "twctl list --output=json "),
        ("twctl list --filter=state=lo", "twctl list --filter=state=lost "),
        ("twctl run --env-file tab", "twctl run --env-file table "),
        ("twctl run --env-file=tab", "twctl run --env-file=table "),
        ("twctl run cat tab", "twctl run cat table "),
    ],
)
def test_tabulator(
    alice: Twctl, tmp_path: Path, name: str, typed: str, expected: str
) -> None:
    """Pressed in a real shell, it completes what the shell divides, and files."""
    (tmp_path / "table").touch()

    with interactive(alice, name, tmp_path) as shell:
        shell.send(f"{typed}\t")
        shell.expect_exact(expected)


@pytest.mark.parametrize("name", SHELLS)
def test_no_files(alice: Twctl, tmp_path: Path, name: str) -> None:
    """Where no file can stand, a real shell takes none from its directory."""
    (tmp_path / "table").touch()

    with interactive(alice, name, tmp_path) as shell:
        shell.send("twctl completion tab\t\r")
        shell.expect_exact("'tab' is not bash, zsh, fish")


@pytest.mark.parametrize("name", SHELLS)
def test_job_by_tabulator(alice: Twctl, tmp_path: Path, name: str) -> None:
    """A real shell completes jobs as well, whatever it does with a colon."""
    label = f"url=host:{name}"
    job = alice.run("--name", f"to.{name}", "-l", label, "--", "sleep", "300")

    with interactive(alice, name, tmp_path) as shell:
        shell.send(f"twctl list --filter label=url=host:{name[:2]}\t\r")
        shell.expect_exact(job[:8])
        shell.send("twctl kill to.\t\r")
        assert alice.ended(job)["reason"] == "killed"


def test_unknown_shell(alice: Twctl) -> None:
    """Another shell is refused, with those that there are."""
    done = alice("completion", "csh")

    assert done.code == 2
    assert "'csh' is not bash, zsh, fish" in done.error
