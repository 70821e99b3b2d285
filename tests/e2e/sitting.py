"""A person at a terminal, who calls `twctl` there."""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import pexpect

from tests.e2e.commandline import Twctl
from tests.e2e.waiting import PATIENCE


WITHIN: Final = 20 * PATIENCE  # seconds; what it bounds takes some tenths

Sit = Callable[..., "pexpect.spawn[bytes]"]


@contextmanager
def sitting(alice: Twctl) -> Iterator[Sit]:
    """Sit down at a terminal of 91 columns and 29 rows; yields how to call `twctl`.

    With *line* a shell is told that, where `twctl` is how to call it.
    """
    with ExitStack() as stack:

        def call(
            *arguments: str,
            line: str | None = None,
            environment: Mapping[str, str] | None = None,
        ) -> "pexpect.spawn[bytes]":
            words = [*alice.program, *arguments]

            if line is not None:
                words = ["sh", "-c", line.replace("twctl", shlex.join(alice.program))]

            env: Any = alice.environment | dict(environment or {})
            child: pexpect.spawn[bytes] = pexpect.spawn(
                words[0], words[1:], env=env, timeout=WITHIN, dimensions=(29, 91)
            )
            stack.callback(child.close, force=True)
            return child

        yield call


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
