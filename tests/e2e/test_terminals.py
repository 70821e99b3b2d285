"""Jobs at a terminal, driven as a person would, and as a script that pipes."""

import os
import re
import signal
import subprocess
import termios
from collections.abc import Sequence
from typing import Any, Final

import pexpect
import pytest

from tests.e2e.commandline import MODULE, SCRIPT, Running, Twctl
from tests.e2e.daemon import Daemon
from tests.e2e.pki import Certificates
from tests.e2e.sitting import WITHIN, Sit, code, found
from tests.e2e.waiting import wait_for


SHELL: Final = ("sh", "-c", "stty size; PS1='ready> ' exec sh -i")


@pytest.fixture(params=[MODULE, SCRIPT], ids=["module", "script"])
def program(request: pytest.FixtureRequest) -> Sequence[str]:
    """The program, as both that it is."""
    command: Sequence[str] = request.param
    return command


@pytest.fixture
def alice(daemon: Daemon, certs: Certificates, program: Sequence[str]) -> Twctl:
    """The command line of alice."""
    return Twctl(daemon, certs.of("alice"), program=program)


def piped(
    alice: Twctl, data: bytes, *arguments: str
) -> "subprocess.CompletedProcess[bytes]":
    """Call `twctl` with *data* on its stdin."""
    return subprocess.run(
        [*alice.program, *arguments],
        input=data,
        capture_output=True,
        check=False,
        env=alice.environment,
        timeout=WITHIN,
    )


def test_shell(sit: Sit) -> None:
    """A shell on a terminal as large as ours: keys, Ctrl-C, and an exit code."""
    child = sit("run", "-f", "-it", "--", *SHELL)
    child.expect(rb"29 91\r\n")
    child.expect(b"ready> ")
    child.send(b"sleep 1000\r")
    child.expect(b"sleep 1000\r\n")
    child.send(b"\x03")
    child.expect(b"ready> ")
    child.send(b"exit 7\r")

    assert code(child) == 7


def test_resize(sit: Sit) -> None:
    """When our terminal has another size, so has the job's."""
    child = sit("run", "-f", "-it", "--", *SHELL)
    child.expect(b"ready> ")
    child.setwinsize(30, 100)

    def is_told() -> bool:
        child.send(b"stty size\r")
        return child.expect([rb"30 100\r\n", rb"29 91\r\n"]) == 0

    wait_for(is_told, what="the new size")
    child.send(b"exit\r")

    assert code(child) == 0


def test_terminal_is_restored(alice: Twctl) -> None:
    """Whatever ends the job, the terminal is then as it was before."""
    command = " ".join(alice.program)
    script = (
        "before=$(stty -g);"
        f" {command} run -f -it -- sh -c 'echo ready; read key; kill -9 $$';"
        ' test "$(stty -g)" = "$before" && echo the same'
    )
    environment: Any = alice.environment
    child: pexpect.spawn[bytes] = pexpect.spawn(
        "sh", ["-c", script], env=environment, timeout=WITHIN
    )
    child.expect(b"ready")
    child.send(b"\r")
    child.expect(b"the same")

    assert code(child) == 0


def test_detach_and_attach(sit: Sit) -> None:
    """Ctrl-] three times comes away; attach comes back to what has gone on."""
    child = sit("run", "-f", "-it", "--name", "shell", "--", *SHELL)
    child.expect(b"ready> ")
    child.send(b"\x1d\x1d\x1d")
    child.expect(rb"twctl: detached; 'twctl attach ([-0-9a-f]+)' comes back")
    job = found(child)
    left = code(child)
    again = sit("attach", "-n", "0", job)
    again.expect(rb"attached to job [-0-9a-f]+; Ctrl-\] three times detaches")
    again.send(b"echo $((6 * 7))\r")
    again.expect(rb"\r\n42\r\n")
    again.send(b"exit 3\r")

    assert left == 0
    assert code(again) == 3


def test_notices_that_cannot_be_written(sit: Sit, alice: Twctl) -> None:
    """A stderr that takes nothing keeps nobody from the job and its code."""
    job = alice.run("-it", "--", *SHELL)
    child = sit(line=f"exec twctl attach {job} 2> /dev/full")
    child.expect(b"ready> ")
    child.send(b"exit 3\r")

    assert code(child) == 3


def test_end_of_a_script_leaves_a_terminal_open(sit: Sit, alice: Twctl) -> None:
    """A script that attaches to a terminal does not take it from all who come later."""
    job = alice.run("-it", "--", *SHELL)
    script = subprocess.Popen(
        [*alice.program, "attach", job],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=alice.environment,
    )
    assert script.stdin is not None

    with Running(script) as attached:
        script.stdin.write(b"echo $((6 * 7))\n")
        script.stdin.close()
        attached.until(b"\n42\r\n")
        child = sit("attach", job)
        child.expect(b"ready> ")
        child.send(b"exit 5\r")

        assert code(child) == 5
        assert attached.finish().code == 5


def test_attach_only_watches(sit: Sit, alice: Twctl) -> None:
    """With --no-stdin, Ctrl-C leaves the job alone."""
    job = alice.run("sh", "-c", "echo up; sleep 300")
    child = sit("attach", "--no-stdin", job)
    child.expect(b"up")
    child.sendintr()

    assert code(child) == 128 + signal.SIGINT
    assert alice.status(job)["state"] == "running"
    alice("kill", job)


def test_interrupt_without_keys(sit: Sit, alice: Twctl) -> None:
    """Without -i, Ctrl-C is a signal for the job, which is told; twice kills it."""
    script = "trap 'echo no' INT; echo ready; while :; do sleep 0.05; done"
    child = sit("run", "-f", "--", "sh", "-c", script)
    child.expect(b"ready")
    child.send(b"\x03")
    child.expect(b"SIGINT goes to the job; again within 1 s kills it")
    child.expect(b"no\r\n")

    def is_killed() -> bool:
        child.send(b"\x03\x03")
        return child.expect([pexpect.EOF, pexpect.TIMEOUT], timeout=2) == 0

    wait_for(is_killed, what="end")
    child.wait()

    assert child.exitstatus == 128 + signal.SIGKILL


def test_pipe(alice: Twctl) -> None:
    """What is piped into us is what the job reads, and the end is its end."""
    data = bytes(range(256)) * 5000

    done = piped(alice, data, "run", "-f", "-i", "--", "cat")

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == data


def test_job_that_ends_early(alice: Twctl) -> None:
    """A job that does not read to the end is no error, and its code is ours."""
    data = b"line\n" * 1_000_000

    done = piped(alice, data, "run", "-f", "-i", "--", "sh", "-c", "head -n 1; exit 5")

    assert (done.returncode, done.stdout, done.stderr) == (5, b"line\n", b"")


def test_unread_stdin_does_not_delay_the_end(alice: Twctl) -> None:
    """When the job has ended, nobody waits for whoever might still type."""
    reader, writer = os.pipe()

    with os.fdopen(reader), os.fdopen(writer, "w"):
        done = subprocess.run(
            [*alice.program, "run", "-f", "-i", "--", "true"],
            stdin=reader,
            capture_output=True,
            check=False,
            env=alice.environment,
            timeout=WITHIN,
        )

    assert done.returncode == 0


def test_loop_of_a_shell(alice: Twctl) -> None:
    """Without -i nothing of our stdin is taken: a loop that reads it goes on."""
    command = " ".join(alice.program)
    script = f"while read line; do {command} run -f -- echo got $line; done"
    done = subprocess.run(
        ["sh", "-c", script],
        input=b"one\ntwo\nthree\n",
        capture_output=True,
        check=False,
        env=alice.environment,
        timeout=3 * WITHIN,
    )

    assert done.stdout == b"got one\ngot two\ngot three\n"


def test_attach_to_a_pipe(alice: Twctl) -> None:
    """A job that was started with open stdin is fed later, and once."""
    job = alice.run("-i", "--", "sh", "-c", "wc -c; exit 2")

    done = piped(alice, b"x" * 100_000, "attach", job)
    again = piped(alice, b"more", "attach", job)

    assert (done.returncode, done.stdout) == (2, b"100000\n")
    assert (again.returncode, again.stdout) == (2, b"100000\n")


def test_attach_to_watch(alice: Twctl) -> None:
    """A job without stdin can be joined too: its output and its code."""
    job = alice.shell("echo out; echo err >&2; exit 6")

    done = piped(alice, b"nobody reads this", "attach", job)

    assert (done.returncode, done.stdout, done.stderr) == (6, b"out\n", b"err\n")


def test_terminal_without_ours(alice: Twctl) -> None:
    """A job can have a terminal though we have none: a usual size, one stream."""
    script = "stty size; echo err >&2"

    done = piped(alice, b"", "run", "-f", "-t", "--", "sh", "-c", script)

    assert (done.returncode, done.stdout) == (0, b"24 80\r\nerr\r\n")


def test_status_tells(alice: Twctl) -> None:
    """The status says what a job has as its stdin."""
    job = alice.run("-i", "-t", "--wait-all", "--", "true")
    status = alice.ended(job)

    assert (status["stdin"], status["tty"], status["wait_all"]) == (True, True, True)
    assert re.search(r"stdin: +a terminal", alice("status", job).stdout.decode())


def test_interrupt_reaches_all(sit: Sit) -> None:
    """As at a terminal, what a shell has started gets it too, and the shell ends."""
    child = sit("run", "-f", "--", "bash", "-c", "echo up; sleep 1000; echo after")
    child.expect("up")
    child.sendintr()

    assert code(child) == 128 + signal.SIGINT
    assert b"after" not in (child.before or b"")


def test_top_is_interrupted(sit: Sit) -> None:
    """Ctrl-C is Ctrl-C; q is a good end."""
    codes = {}

    for key in ("\x03", "q"):
        child = sit("top")
        child.expect("q ends")
        child.expect_exact("ID")
        child.send(key)
        codes[key] = code(child)

    assert codes == {"\x03": 130, "q": 0}


def pause(child: "pexpect.spawn[bytes]") -> None:
    """Have a shell take the terminal and give it back, as after Ctrl-Z and `fg`."""
    modes = termios.tcgetattr(child.child_fd)
    modes[3] |= termios.ICANON
    termios.tcsetattr(child.child_fd, termios.TCSANOW, modes)
    child.kill(signal.SIGCONT)

    def reads_keys() -> bool:
        return not termios.tcgetattr(child.child_fd)[3] & termios.ICANON

    wait_for(reads_keys, what="key by key")


def test_top_after_a_pause(sit: Sit) -> None:
    """A shell that goes on with it has had the terminal; q is still a key."""
    child = sit("top")
    child.expect("q ends")
    pause(child)
    child.send("q")

    assert code(child) == 0


def test_shell_after_a_pause(sit: Sit) -> None:
    """The keys are the job's again."""
    child = sit("run", "-f", "-it", "--", *SHELL)
    child.expect(b"ready> ")
    pause(child)
    child.send(b"exit 6\r")

    assert code(child) == 6


def test_top_on_paper(alice: Twctl) -> None:
    """Where nothing can be drawn, tables are printed."""
    job = alice.run("--name", "sleeper", "--", "sleep", "1000")
    environment: Any = alice.environment | {"TERM": "dumb"}
    command = [*alice.program, "top", "-i", "100ms"]
    child: pexpect.spawn[bytes] = pexpect.spawn(
        command[0], command[1:], env=environment, timeout=WITHIN
    )

    for _ in range(2):
        child.expect("COMMAND")
        child.expect("sleeper")

    child.sendintr()
    assert code(child) == 130
    alice("kill", job)


def test_sign_of_life(sit: Sit, alice: Twctl) -> None:
    """Who waits for long sees that; the line is gone before the code is printed."""
    job = alice.run("--name", "long", "--", "sleep", "1000")
    child = sit("wait", "long")
    child.expect("waiting for the job")
    alice("kill", job)
    child.expect_exact("\x1b[2K137\r\n")

    assert code(child) == 137


def test_top_is_quit(sit: Sit) -> None:
    """Ctrl-\\ ends it too, with the terminal as it was."""
    line = 'before=$(stty -g); twctl top; echo $?; test "$(stty -g)" = "$before"'
    child = sit(line=f"trap : QUIT; {line}; echo $?")
    child.expect("q ends")
    child.send("\x1c")
    child.expect_exact("\x1b[?1049l")
    child.expect(rb"131\r\n0\r\n")

    assert code(child) == 0


def test_top_without_stdin(sit: Sit) -> None:
    """Where there are no keys to read there is a screen all the same."""
    child = sit(line="exec twctl top <&-")
    child.expect("q ends")
    child.expect_exact("ID")
    child.sendintr()

    assert code(child) == 130
