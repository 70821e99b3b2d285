"""Who sends to a job in the place of another, and what that other hears of it."""

import pexpect
import pytest

from tests.e2e.commandline import Twctl
from tests.e2e.sitting import Sit, code, found


SHELL = ("sh", "-c", "PS1='ready> ' exec sh -i")


def taken_over(sit: Sit) -> "tuple[pexpect.spawn[bytes], pexpect.spawn[bytes]]":
    """Have a second client take a job's input; return who had it, and who has."""
    first = sit("run", "-f", "-it", "--", *SHELL)
    first.expect(b"ready> ")
    child = sit("list", "-q")
    child.expect(rb"([-0-9a-f]{36})")
    second = sit("attach", found(child))
    second.expect(b"ready> ")
    first.expect(b"another client sends to it now.*; Ctrl-C detaches")
    return first, second


def test_second_client_takes_over(sit: Sit) -> None:
    """Who attaches sends from then on; whoever did so before is told, and watches."""
    first, second = taken_over(sit)
    second.send(b"exit 4\r")

    assert code(second) == 4
    assert code(first) == 4


@pytest.mark.parametrize("keys", [b"\x1d\x1d\x1d", b"\x03"], ids=["keys", "Ctrl-C"])
def test_who_was_replaced_can_leave(sit: Sit, keys: bytes) -> None:
    """Whose place another has taken is not locked in, and types into nothing."""
    first, second = taken_over(sit)
    first.send(b"echo nobody\r")
    first.send(keys)
    left = code(first)
    second.send(b"exit 4\r")

    assert left == 0
    assert code(second) == 4


def test_pipe_that_is_cut_off(sit: Sit, alice: Twctl) -> None:
    """Whose input is not read to its end says so in one line."""
    job = alice.shell("read word; echo got $word; exec sleep 1000", "-i")
    pouring = sit(line=f"yes | twctl attach {job}")
    pouring.expect("got y")

    with alice.start("attach", job):
        pouring.expect(
            rb"twctl: job [-0-9a-f]+ takes no more input: another client"
            rb" sends to it now; only its output comes here\r\n"
        )

    alice("kill", job)
    assert code(pouring) == 137
