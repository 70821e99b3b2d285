"""How far a long copy is, as a person at a terminal sees it."""

import re
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pexpect
import pytest

from tests.e2e.commandline import Twctl
from tests.e2e.daemon import Daemon
from tests.e2e.pki import Certificates
from tests.e2e.proxy import Fault, Proxy


SIZE: Final = 5 << 20
RATE: Final = 2 << 20  # bytes a second: a copy takes longer than nobody minds
BAR: Final = rb"\d+%.* (\S+ MiB of 5\.0 MiB) .*/s"

Type = Callable[[str], "pexpect.spawn[bytes]"]


@pytest.fixture
def far(daemon: Daemon, certs: Certificates) -> Iterator[Twctl]:
    """The command line of alice, at the end of a slow network."""
    with Proxy(daemon.address, usual=Fault(rate=RATE)) as proxy:
        settings = {"TWCTL_HOST": proxy.address, "TERM": "xterm"}
        yield Twctl(daemon, certs.of("alice"), environment=settings)


@pytest.fixture
def job(alice: Twctl) -> str:
    """A job that has written much."""
    job = alice.run("head", "-c", str(SIZE), "/dev/zero")
    alice("wait", job)
    return job


@pytest.fixture
def type_(far: Twctl) -> Iterator[Type]:
    """Type a line for a shell at a terminal, with `twctl` for its words."""
    with ExitStack() as stack:

        def type_line(line: str) -> "pexpect.spawn[bytes]":
            words = line.replace("twctl", shlex.join(far.program))
            environment: Any = far.environment
            child: pexpect.spawn[bytes] = pexpect.spawn(
                *("sh", ["-c", words]),
                env=environment,
                timeout=30,
                dimensions=(24, 100),
            )
            stack.callback(child.close, force=True)
            return child

        yield type_line


def test_copy_to_a_file(type_: Type, job: str, tmp_path: Path) -> None:
    """Bytes, rate and time left are shown, and gone at the end; the file is right."""
    file = tmp_path / "output"
    child = type_(f"twctl tail {job} > {file}; echo over")

    child.expect(BAR)
    child.expect("over")

    # The cursor is shown at once, and the line erased before the next one begins.
    text = bytes(child.before or b"")
    assert text.endswith(b"\x1b[2K")
    assert file.stat().st_size == SIZE


@pytest.mark.parametrize(
    ("options", "size"), [("-n 7168", 7), ("--until {moment}", 14)], ids=["-n", "until"]
)
def test_part_of_it(  # noqa: PLR0917 - fixtures, and two parameters
    daemon: Daemon, alice: Twctl, type_: Type, tmp_path: Path, options: str, size: int
) -> None:
    """What is shown is of what will be copied, and not of all that there is."""
    gate = daemon.gate()
    lines = f"yes {'x' * 1023} | head -c"
    job = alice.shell(f"{lines} {size}M; echo >&2; {gate.wait}; {lines} 2M")

    with alice.start("tail", "-f", "--err", job) as errors:
        errors.until_lines(1)
        moment = f"@{time.time():.6f}"
        gate.open()

    alice.ended(job)
    line = f"twctl tail {options.format(moment=moment)} {job} > {tmp_path / 'output'}"
    child = type_(f"{line}; echo over")

    child.expect(BAR.replace(b"5", b"%d" % size))
    child.expect("over")
    assert (tmp_path / "output").stat().st_size == size << 20


def test_interrupted(type_: Type, job: str, tmp_path: Path) -> None:
    """Ctrl-C ends it as it does without a bar, and takes the bar away."""
    child = type_(f"exec twctl tail {job} > {tmp_path / 'output'}")
    child.expect(BAR)
    child.sendintr()
    child.expect(pexpect.EOF)
    child.wait()

    assert child.exitstatus == 130
    assert bytes(child.before or b"").endswith(b"\x1b[2K\r\n")


@pytest.mark.parametrize("where", ["| cat", "2>/dev/null >{file}", "--all >{file}"])
def test_nothing_where_it_would_disturb(
    type_: Type, job: str, tmp_path: Path, where: str
) -> None:
    """Whoever reads the output may use the terminal; stderr may be the job's."""
    line = where.format(file=tmp_path / "output")
    child = type_(f"twctl tail -c 4M {job} {line} | tr -d '\\0'; echo over")
    child.expect(pexpect.EOF)

    assert re.sub(rb"\x00+", b"", bytes(child.before or b"")) == b"over\r\n"
