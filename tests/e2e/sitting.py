"""A person at a terminal, who calls `twctl` there."""

import re
from collections.abc import Callable
from typing import Any, Final

import pexpect

from tests.e2e.waiting import PATIENCE


WITHIN: Final = 20 * PATIENCE  # seconds; what it bounds takes some tenths

Sit = Callable[..., "pexpect.spawn[bytes]"]


def code(child: "pexpect.spawn[bytes]") -> int | None:
    """Wait for the end of *child*; return its exit code."""
    child.expect(pexpect.EOF)
    child.wait()
    return child.exitstatus


def found(child: "pexpect.spawn[bytes]") -> str:
    """Return the group of what was expected last."""
    assert isinstance(child.match, re.Match)
    text: bytes = child.match.group(1)
    return text.decode()


def hang_up(child: "pexpect.spawn[bytes]") -> int | None:
    """Take the terminal away, as who closes a window; return the exit code."""
    terminal: Any = child
    terminal.ptyproc.fileobj.close()
    child.wait()
    return child.exitstatus
