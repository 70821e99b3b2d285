"""A terminal that answers what it is asked, in front of a job that once asked."""

from tests.e2e.commandline import Twctl
from tests.e2e.sitting import Sit, code


WHERE = "\x1b[6n"  # the cursor is
HERE = "\x1b[24;80R"
WELL = ("\x1b[5n", "\x1b[0n")  # asked, and answered

# Asks where the cursor is, and shows what comes on its stdin.
ASKS = r"printf '\033[6n'; stty -echo -icanon; echo ready; exec cat -v"


def test_answers_to_what_was_asked_before(sit: Sit, alice: Twctl) -> None:
    """They do not reach the job; what is typed meanwhile and later does."""
    job = alice.run("-it", "--", "sh", "-c", ASKS)
    alice.until_printed(job, b"ready")
    child = sit("attach", job, environment={"TERM": "xterm"})
    child.expect_exact(WHERE)
    child.send(f"early {HERE}keys, ")
    child.expect_exact(WELL[0])
    child.send(f"{WELL[1]}late keys\r")
    child.expect("late keys\r\n")
    shown = bytes(child.before or b"")
    alice("kill", job)
    code(child)

    assert shown.endswith(b"early keys, ")


def test_answers_to_what_is_asked_now(sit: Sit, alice: Twctl) -> None:
    """A job that asks now has its answer."""
    job = alice.run("-it", "--", "sh", "-c", f"read line; {ASKS}")
    child = sit("attach", job, environment={"TERM": "xterm"})
    child.send("go\r")
    child.expect_exact(WHERE)
    child.expect("ready")
    child.send(HERE)
    child.expect_exact("^[[24;80R")
    alice("kill", job)

    assert code(child) == 137
