"""What is said on a terminal begins where lines do, and so does what comes after."""

import pytest

from tests.e2e.commandline import Twctl
from tests.e2e.sitting import Sit, code


@pytest.mark.parametrize("verb", ["list --watch -a", "events -f", "tail -f", "wait"])
def test_after_an_interrupt(sit: Sit, alice: Twctl, verb: str) -> None:
    """Ctrl-C is shown, and the shell's prompt is not put behind it."""
    job = alice.shell("echo shown; exec sleep 1000")
    watches = verb.startswith(("list", "events"))
    child = sit(line=f"trap : INT; twctl {verb} {'' if watches else job}; echo back")
    child.expect_exact({"tail -f": "shown", "wait": "waiting"}.get(verb, job[:12]))
    child.sendintr()

    child.expect(rb"\^C.*\r\nback\r\n")
    assert code(child) == 0
    alice("kill", job)


def test_detached(sit: Sit, alice: Twctl) -> None:
    """A notice does not go on with a line of the job's, such as a prompt."""
    job = alice.run("-it", "--", "sh", "-c", "PS1='ready> ' exec sh -i")
    child = sit("attach", job)
    child.expect_exact("ready> ")
    child.send("\x1d\x1d\x1d")

    child.expect(rb"\r\ntwctl: detached;")
    assert code(child) == 0
    alice("kill", job)


def test_interrupt_that_goes_to_the_job(sit: Sit) -> None:
    """The notice does not stand behind the Ctrl-C that it is about."""
    child = sit("run", "-f", "--", "sh", "-c", "echo up; exec sleep 1000")
    child.expect("up\r\n")
    child.sendintr()

    child.expect(rb"\^C\r+\ntwctl: SIGINT goes to the job")
    assert code(child) == 130
